"""The trainings: both CTSR stages, and those that make the teachers."""

from ctsr_lightning.modules.base import RestorationModule, TrainingModule
from ctsr_lightning.modules.codec import CodecTraining
from ctsr_lightning.modules.controllable import Controllable
from ctsr_lightning.modules.diffusion_prior import DiffusionPrior
from ctsr_lightning.modules.dual_teacher import DualTeacher
from ctsr_lightning.modules.one_step import OneStep
from ctsr_lightning.modules.residual_shift import ResidualShift

__all__ = (
    "CodecTraining",
    "Controllable",
    "DiffusionPrior",
    "DualTeacher",
    "OneStep",
    "ResidualShift",
    "RestorationModule",
    "TrainingModule",
)
