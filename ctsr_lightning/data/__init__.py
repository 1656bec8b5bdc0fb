"""Photographs, pairs and the DataModule."""

from ctsr_lightning.data.datamodule import RealESRGANDataModule
from ctsr_lightning.data.pairing.folders import PairFolder

__all__ = ("PairFolder", "RealESRGANDataModule")
