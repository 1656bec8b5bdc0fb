"""Curves on the perception-distortion plane: points, dominance, hypervolume, monotonicity."""

from ctsr_lightning.frontier.comparison import Comparison, Side, compare, dominates, hypervolume
from ctsr_lightning.frontier.monotone import Monotone, monotone
from ctsr_lightning.frontier.plane import Axis, Point

__all__ = ("Axis", "Comparison", "Monotone", "Point", "Side", "compare", "dominates", "hypervolume", "monotone")
