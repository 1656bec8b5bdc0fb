"""Stage 2: a latent velocity field from realness to fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.losses.velocity import interpolate, velocity_matching
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.networks.tradeoff import TradeOff, Z0Source
from ctsr_lightning.networks.velocity import VelocityField
from ctsr_lightning.teachers.base import Teacher


class Controllable(RestorationModule):
    """Stage 2 of CTSR: velocity matching between the frozen student's latents and T_f's (Eq. 5-6).

    L_s2 = E ‖(z_1 - z_0) - v((1-t) z_0 + t z_1, t, c)‖² with z_0 = E(S_1(x_LR)), z_1 = E(T_f(x_LR)) and t ~ U(0, 1).
    Afterwards z(t) = z_0 + t v(z_0, 0, c): t = 0 is stage 1's realism, t = 1 the teacher's fidelity.

    Args:
        student: S_1; give it stage 1's `weights`. It is frozen here and enters no checkpoint of stage 2.
        velocity: v, the network that is trained.
        fidelity: T_f, whose restorations are the end of the path.
        realness: T_r, only to be shown beside the results in pictures; null leaves it out.
        z0_source: Where z_0 comes from, in training and inference alike: `latent` (ẑ, so that t = 0 is stage 1 bit for
            bit) or `reencode` (the paper's E(S_1(x_LR))).
        **kwargs: Optimizer and scheduler.
    """

    controllable = True

    def __init__(
        self,
        student: OneStepStudent,
        velocity: VelocityField,
        fidelity: Teacher,
        realness: Teacher | None = None,
        z0_source: Z0Source = "latent",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if fidelity.scale != student.scale:
            raise ValueError(f"The fidelity teacher enlarges x{fidelity.scale}, the student x{student.scale}.")
        self.student = Frozen(student)
        self.velocity, self.scale = velocity, student.scale
        self.fidelity, self.realness = fidelity, realness
        self.z0_source: Z0Source = z0_source

    @property
    def tradeoff(self) -> TradeOff:
        """Student and velocity field as they restore together."""
        return TradeOff(self.student.network, self.velocity, self.z0_source)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The velocity-matching term; needs no ground truth."""
        student = self.student.network
        z_0, lq_latent = self.tradeoff.start(batch.lq, batch.key)
        z_1 = student.encode(self.fidelity.restore(batch.lq, batch.key))
        control = self.draws.uniform(z_0)
        with torch.no_grad():
            prompt = student.prompt(batch.lq, batch.key)
        velocity = self.velocity(interpolate(z_0, z_1, control), control, prompt, lq_latent)
        return {"velocity/match": velocity_matching(velocity, z_0, z_1)}

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore at t = 0, where every slider starts."""
        return self.tradeoff.restore(lq, 0.0, keys)

    def sweep(self, lq: Tensor, controls: Sequence[float], keys: list[str] | None = None) -> list[Tensor]:
        """Restore at several t in one pass."""
        return self.tradeoff.sweep(lq, controls, keys)

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """The teachers' restorations."""
        shown = {"T_f": self.fidelity.restore(batch.lq, batch.key)}
        if self.realness is not None:
            shown["T_r"] = self.realness.restore(batch.lq, batch.key)
        return shown
