"""Photographs, degradations and the DataModule."""

from ctsr_lightning.data.datamodule import RealESRGANDataModule
from ctsr_lightning.data.degradation.recipe import Degradation, DegradationOrder, light, mixed, realesrgan
from ctsr_lightning.data.pairing.folders import PairFolder

__all__ = ("Degradation", "DegradationOrder", "PairFolder", "RealESRGANDataModule", "light", "mixed", "realesrgan")
