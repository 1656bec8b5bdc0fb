"""Distillation of a flow into one step with a slider."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.flow import Solver, expand, step_velocity
from ctsr_lightning.losses import flow
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.models.flows import OneStepFlow
from ctsr_lightning.modules.student_training import StudentTraining
from ctsr_lightning.networks.flow_network import FlowNetwork
from ctsr_lightning.networks.frozen import Frozen


class TunableFlow(StudentTraining):
    """Stage 2 of OFTSR: the student's X_τ = x_0 + τ v_φ(x_0, c, τ) follows the teacher's ODE (Sec. 3.2-3.3).

    With t ~ U(t_min, t_max) and s = min(t + dt, 1) the loss is the sum of `losses.flow`'s three terms: distillation
    (Eq. 9), alignment (Eq. 10) and boundary (Eq. 11). No gradient enters the teacher or its input. No ground truth is
    used.

    Args:
        student: φ; give its network the teacher's `weights`.
        teacher: The flow, frozen; it enters no checkpoint.
        dt: Length of a step in (0, 1).
        solver: How the teacher takes the step.
        t_min: Smallest t.
        t_max: Largest t, below 1.
        lambda_distil: Weight of `flow/distil`.
        lambda_align: Weight of `flow/align`. It does not vanish at the solution; well below 7 dt it does no harm.
        lambda_boundary: Weight of `flow/boundary`.
        norm: Error in all three: `l2`, as in the paper, or `l1`.
        symmetries: Mirror and turn every batch of square crops at random.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If student and teacher differ in scale, σ or channels, or the times do not satisfy
            0 <= t_min < t_max < 1 and 0 < dt < 1.
    """

    student: OneStepFlow

    def __init__(
        self,
        student: OneStepFlow,
        teacher: FlowNetwork,
        dt: float = 0.05,
        solver: Solver = "midpoint",
        t_min: float = 0.01,
        t_max: float = 0.99,
        lambda_distil: float = 1.0,
        lambda_align: float = 0.01,
        lambda_boundary: float = 0.1,
        norm: flow.Norm = "l2",
        symmetries: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, **kwargs)
        for name, mine, its in (
            ("scale", student.scale, teacher.scale),
            ("sigma", student.network.sigma, teacher.sigma),
            ("channels", student.codec.channels, teacher.codec.channels),
        ):
            if mine != its:
                raise ValueError(f"Expected a teacher with the student's {name} {mine}, found {its}. Set both alike.")
        if not (0.0 <= t_min < t_max < 1.0 and 0.0 < dt < 1.0):
            raise ValueError(
                f"Expected 0 <= t_min < t_max < 1 and 0 < dt < 1, found t_min {t_min}, t_max {t_max} and dt {dt}. "
                "The paper has 0.01, 0.99 and 0.05."
            )
        for module in student.modules():
            if isinstance(module, nn.Dropout):  # of the teacher's training; here it would enter the targets
                module.p = 0.0
        self.teacher = Frozen(teacher)
        self.dt, self.t_min, self.t_max = dt, t_min, t_max
        self.solver: Solver = solver
        self.lambda_distil, self.lambda_align, self.lambda_boundary = lambda_distil, lambda_align, lambda_boundary
        self.norm: flow.Norm = norm
        self.symmetries = symmetries

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The three terms: one call of the student for three times, two of the teacher."""
        student, teacher, lq = self.student.network, self.teacher.network, batch.lq
        if self.symmetries:
            (lq,) = random_symmetry([lq], self.draws.generator)
        c = student.degraded(lq)
        x_0 = student.start(c, self.draws.normal(c))
        t = self.t_min + (self.t_max - self.t_min) * self.draws.uniform(c)
        s, zero = (t + self.dt).clamp(max=1.0), torch.zeros_like(t)
        v_t, v_s, v_0 = student.mean_velocity(
            x_0.repeat(3, 1, 1, 1), torch.cat([t, s, zero]), c.repeat(3, 1, 1, 1)
        ).chunk(3)
        with torch.no_grad():
            x_t = x_0 + expand(t, x_0) * v_t
            at_t, at_0 = teacher.velocity(torch.cat([x_t, x_0]), torch.cat([t, zero]), c.repeat(2, 1, 1, 1)).chunk(2)
            step = step_velocity(lambda x, time: teacher.velocity(x, time, c), x_t, t, s - t, self.solver, first=at_t)
        return {
            "flow/distil": self.lambda_distil * flow.distillation(v_s, v_t, step, t, s, self.norm),
            "flow/align": self.lambda_align * flow.alignment(v_t, at_t, t, self.norm),
            "flow/boundary": self.lambda_boundary * flow.boundary(v_0, at_0, self.norm),
        }

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's restoration, by its number of steps."""
        teacher = self.teacher.network
        return {f"flow {teacher.steps}": teacher.restore(batch.lq)}
