"""The restoration experts that a student is distilled from."""

from ctsr_lightning.teachers.base import Noisy, Teacher, add_noise
from ctsr_lightning.teachers.one_step import OneStepTeacher
from ctsr_lightning.teachers.residual_shift import ResidualShiftTeacher

__all__ = ("Noisy", "OneStepTeacher", "ResidualShiftTeacher", "Teacher", "add_noise")
