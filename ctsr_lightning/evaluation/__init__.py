"""Restorations measured and compared: methods, measurements, trade-off curves, reports."""
