"""Models that restore images: the networks of a method together, behind one interface."""

from ctsr_lightning.models.few_step import FewStepStudent
from ctsr_lightning.models.flows import MultiStepFlow, OneStepFlow
from ctsr_lightning.models.restoration_model import ControlKind, RestorationModel
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff

__all__ = (
    "ControlKind",
    "FewStepStudent",
    "MultiStepFlow",
    "OneStepFlow",
    "OneStepStudent",
    "RestorationModel",
    "TradeOff",
)
