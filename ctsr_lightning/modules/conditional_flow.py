"""Training of a noise-augmented conditional flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.flow import interpolate
from ctsr_lightning.losses.flow import Norm, velocity_matching
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.models.flows import MultiStepFlow
from ctsr_lightning.modules.student_training import StudentTraining


class ConditionalFlow(StudentTraining):
    """Stage 1 of OFTSR, the teacher: E D(v((1-τ) x_0 + τ x_1, c, τ), x_1 - x_0) with τ ~ U(0, 1) (Sec. 3.1).

    x_1 is the ground truth's latent, c the enlarged input's and x_0 = √(1-σ²) c + σ ε.

    Args:
        student: The flow, as it restores by steps.
        norm: D: `l1` (the paper's choice for restoration) or `l2`, whose optimum is the posterior's own flow.
        symmetries: Mirror and turn every batch of square crops at random.
        **kwargs: Optimizer and scheduler.
    """

    student: MultiStepFlow

    def __init__(self, student: MultiStepFlow, norm: Norm = "l1", symmetries: bool = False, **kwargs: Any) -> None:
        super().__init__(student, **kwargs)
        self.norm: Norm = norm
        self.symmetries = symmetries

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the velocity."""
        network, lq, gt = self.student.network, batch.lq, self.ground_truth(batch)
        if self.symmetries:
            lq, gt = random_symmetry([lq, gt], self.draws.generator)
        x_1, condition = network.encode(gt), network.degraded(lq)
        x_0, time = network.start(condition, self.draws.normal(condition)), self.draws.uniform(condition)
        velocity = network.velocity(interpolate(x_0, x_1, time), time, condition)
        return {"flow/match": velocity_matching(velocity, x_0, x_1, self.norm)}
