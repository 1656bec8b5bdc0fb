"""Photographs, degradations and the DataModule."""

from ctsr_lightning.data.collate import PlannedBatch, collate
from ctsr_lightning.data.datamodule import RealESRGANDataModule
from ctsr_lightning.data.datasets import (
    LowQualityDataset,
    MixedDataset,
    PairDataset,
    PhotoDataset,
    RestorationDataset,
    Sample,
    WithoutTruth,
)
from ctsr_lightning.data.degradation.plan import DegradationPlan, KernelPlan, NoisePlan, OrderPlan
from ctsr_lightning.data.degradation.recipe import (
    Degradation,
    DegradationOrder,
    MixedDegradation,
    light,
    mixed,
    realesrgan,
)
from ctsr_lightning.data.pairing.folders import PairFolder
from ctsr_lightning.data.samplers import Draw, EvaluationSampler, ResumableLoader, TrainingSampler
from ctsr_lightning.data.samples import train_samples, val_samples

__all__ = [
    "Degradation",
    "DegradationOrder",
    "DegradationPlan",
    "Draw",
    "EvaluationSampler",
    "KernelPlan",
    "LowQualityDataset",
    "MixedDataset",
    "MixedDegradation",
    "NoisePlan",
    "OrderPlan",
    "PairDataset",
    "PairFolder",
    "PhotoDataset",
    "PlannedBatch",
    "RealESRGANDataModule",
    "RestorationDataset",
    "ResumableLoader",
    "Sample",
    "TrainingSampler",
    "WithoutTruth",
    "collate",
    "light",
    "mixed",
    "realesrgan",
    "train_samples",
    "val_samples",
]
