"""Learning-rate schedule counted in optimizer steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Rise linearly for a while, then fall along half a cosine and stay at the floor.

    Args:
        optimizer: The optimizer; its learning rates are the peaks.
        total_steps: Steps until the floor is reached; more are allowed. Null takes the length of the training, so that
            `--trainer.max_steps` is followed.
        warmup_steps: Steps of the rise, at most a quarter of the whole.
        floor: Fraction of the peak at the end.

    Raises:
        ValueError: If a number of steps is out of range.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup_steps: int = 0, floor: float = 0.0
    ) -> None:
        if warmup_steps < 0 or (total_steps is not None and total_steps < 1):
            raise ValueError(f"Expected total_steps >= 1, warmup_steps >= 0, found {total_steps}, {warmup_steps}.")
        self.total_steps, self.warmup_steps, self.floor = total_steps, warmup_steps, floor
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Fraction of the peak at an optimizer step."""
        warmup = self.warmup_steps if self.total_steps is None else min(self.warmup_steps, self.total_steps // 4)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.total_steps is None:
            return 1.0
        progress = min(1.0, (step - warmup) / (self.total_steps - warmup))
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
