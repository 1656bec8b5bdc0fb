"""Degradation of photographs: recipes, what they draw, and the operators that apply it."""

from ctsr_lightning.degradation.recipe import Degradation, DegradationOrder, bicubic, light, mixed, realesrgan

__all__ = ("Degradation", "DegradationOrder", "bicubic", "light", "mixed", "realesrgan")
