"""Learning-rate schedule counted in optimizer steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Rise linearly for a while, then fall along half a cosine and stay at the floor.

    Args:
        optimizer: The optimizer; its learning rates are the peaks.
        total_steps: Steps until the floor is reached. Steps beyond it are allowed.
        warmup_steps: Steps of the rise.
        floor: Fraction of the peak at the end.

    Raises:
        ValueError: If the warm-up is not shorter than the whole.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, floor: float = 0.0) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"Expected 0 <= warmup_steps < total_steps, got {warmup_steps} and {total_steps}.")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
