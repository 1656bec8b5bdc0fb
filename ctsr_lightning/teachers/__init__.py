"""The restoration experts that a student is distilled from."""

from ctsr_lightning.teachers.base import Gradient, Noisy, Opinion, Teacher, add_noise
from ctsr_lightning.teachers.bridge import BridgedTeacher
from ctsr_lightning.teachers.expert import ExpertTeacher
from ctsr_lightning.teachers.one_step import OneStepTeacher
from ctsr_lightning.teachers.residual_shift import ResidualShiftTeacher

__all__ = (
    "BridgedTeacher",
    "ExpertTeacher",
    "Gradient",
    "Noisy",
    "OneStepTeacher",
    "Opinion",
    "ResidualShiftTeacher",
    "Teacher",
    "add_noise",
)
