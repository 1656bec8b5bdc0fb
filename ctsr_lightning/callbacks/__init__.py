"""Lightning callbacks: evaluation, pictures, averages, files, memory."""

from ctsr_lightning.callbacks.ema import EMA
from ctsr_lightning.callbacks.evaluation import Evaluation
from ctsr_lightning.callbacks.image_grid import ImageGrid
from ctsr_lightning.callbacks.last_checkpoint import LastCheckpoint
from ctsr_lightning.callbacks.memory import MemorySummary
from ctsr_lightning.callbacks.statistics import TrainingStatistics
from ctsr_lightning.callbacks.tradeoff_curve import TradeOffCurve
from ctsr_lightning.callbacks.writer import PredictionWriter, WeightsWriter

__all__ = (
    "EMA",
    "Evaluation",
    "ImageGrid",
    "LastCheckpoint",
    "MemorySummary",
    "PredictionWriter",
    "TradeOffCurve",
    "TrainingStatistics",
    "WeightsWriter",
)
