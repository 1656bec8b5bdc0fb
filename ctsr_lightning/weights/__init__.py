"""Tensors from files: found, read safely, loaded strictly. Knows no network."""
