"""A training: a one-step student with one robust loss and no teacher, the baseline of every distillation."""

from typing import Any

from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.modules.base import RestorationModule


class CharbonnierTraining(RestorationModule):
    """Minimise the mean of √((x̂ - x_GT)² + ε²).

    Args:
        student: The network that is trained.
        epsilon: ε, where the square turns into the absolute value.
        **kwargs: Optimizer and scheduler.
    """

    def __init__(self, student: OneStepStudent, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student, self.scale, self.epsilon = student, student.scale, epsilon

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms by name: their sum is minimised, each is logged as `train/<name>`."""
        if batch.gt is None:
            raise ValueError("Expected ground truth to train on, but this batch has none.")
        restored = self.student.decode(self.student.latent(batch.lq, keys=batch.key))
        return {"rec/charbonnier": ((restored - batch.gt).square() + self.epsilon**2).sqrt().mean()}

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """What validation, pictures and `ctsr predict` show."""
        return self.student.restore(lq, keys=keys)
