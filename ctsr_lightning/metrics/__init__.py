"""Image quality metrics as torchmetrics, and pictures of their results."""
