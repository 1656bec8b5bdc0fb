"""Photographs, pairs and the DataModule."""

from ctsr_lightning.data.datamodule import RealESRGANDataModule
from ctsr_lightning.data.pairing.folders import PairFolder
from ctsr_lightning.data.sources import PhotoFolder

__all__ = ("PairFolder", "PhotoFolder", "RealESRGANDataModule")
