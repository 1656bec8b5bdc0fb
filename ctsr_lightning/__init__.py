"""Controllable fidelity-realness trade-off super-resolution (CTSR) with PyTorch Lightning."""

__version__ = "0.1.0"
