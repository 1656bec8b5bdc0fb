"""Trained models for other programs: merged folders and files, OSEDiff's dialect, ONNX and torch.export."""
