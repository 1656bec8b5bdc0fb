"""The restoration experts that a student is distilled from."""

from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets
from ctsr_lightning.teachers.bridged_teacher import BridgedTeacher
from ctsr_lightning.teachers.expert_teacher import ExpertTeacher
from ctsr_lightning.teachers.flow_teacher import FlowTeacher
from ctsr_lightning.teachers.one_step_teacher import OneStepTeacher
from ctsr_lightning.teachers.resshift_teacher import ResShiftTeacher

__all__ = (
    "BridgedTeacher",
    "ExpertTeacher",
    "FlowTeacher",
    "Gradient",
    "OneStepTeacher",
    "ResShiftTeacher",
    "Teacher",
    "TeacherTargets",
)
