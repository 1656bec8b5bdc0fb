"""Labels of the methods that stand beside a model, in tables and logs."""

BICUBIC, FAITHFUL, REALISTIC = "bicubic", "T_f", "T_r"
"""Baselines."""
GROUND_TRUTH = "ground truth"
"""The ground truth's own values."""
