"""What trainings of a model that restores have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ctsr_lightning.models.restoration_model import RestorationModel
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.frozen import Frozen


class StudentTraining(RestorationModule):
    """A training of a model, by which it restores: at t = 0, and at any t where the model has a slider.

    Args:
        student: The model.
        **kwargs: Optimizer and scheduler.
    """

    student: Any
    """The model, or `Frozen` around it."""

    def __init__(self, student: RestorationModel, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student, self.scale, self.method = student, student.scale, student.method
        self.controllable = student.control_kind != "none"

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore at t = 0; where noise is drawn, an image gets the same every time."""
        return self.sweep(lq, [0.0], keys)[0]

    def sweep(self, lq: Tensor, controls: Sequence[float], keys: list[str] | None = None) -> list[Tensor]:
        """Restore at several t from the same noise."""
        student = self.student.network if isinstance(self.student, Frozen) else self.student
        restored: list[Tensor] = student.sweep(lq, controls, keys)
        return restored
