"""Image quality metrics as torchmetrics."""
