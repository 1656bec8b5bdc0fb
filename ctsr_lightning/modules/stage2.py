"""Stage 2: a latent velocity field from realness to fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.batch import Batch
from ctsr_lightning.cache.identity import identity
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.diffusion.flow import interpolate
from ctsr_lightning.losses import reconstruction
from ctsr_lightning.losses.flow import velocity_matching
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff, Z0Source
from ctsr_lightning.modules.cacheable import CacheableTraining
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.velocity import VelocityField, VelocityStart
from ctsr_lightning.teachers.base import Teacher

TDistribution = Literal["uniform", "near_zero", "zero"]
"""Where stage 2 trains the velocity: on the whole path, t ~ U(0, 1); all over it but mostly near its start, t = u³ with
u ~ U(0, 1), whose median is 1/8; or at its start, t = 0, alone."""


class CTSRStage2(CacheableTraining):
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
        lambda_grid: Weight of `rec/grid`, the term against patches that show at t = 1, on the end of the path as
            z_t + (1-t) v foresees it, see `losses.reconstruction.grid`. Needs ground truth; 0, as in the paper, leaves
            it out.
        t_distribution: `uniform` draws t ~ U(0, 1), the paper's Eq. 5; `zero` trains v(z_0, 0, c) alone, all that is
            asked for afterwards; `near_zero`, t = u³, lies between them. Short trainings come closer to T_f with
            `zero`, as no step goes to points of the path that already show where it ends.
        velocity_start: `base` leaves the velocity's UNet as it was loaded; `student` lets it begin as S_1 (Algorithm
            2), whose adapters it then keeps, frozen, beside its own. Where all weights are trained, load S_1's instead.
        head_lr: Learning rate of the layers of v that start at zero, its `head` and `lq_projection`; null takes the
            optimizer's. Schedules scale both alike. Adam moves a weight by at most about the learning rate per step, so
            at an adapter's rate the head grows slowly: some 30 times the optimizer's rate suits short trainings.
        **kwargs: `cache`, with which a step runs the velocity field alone, optimizer and scheduler.

    Raises:
        ValueError: If the teacher is of another scale than the student, `head_lr` is not positive, or the velocity is
            to begin as a student without adapters.
    """

    controllable = True

    def __init__(
        self,
        student: OneStepStudent,
        velocity: VelocityField,
        fidelity: Teacher,
        realness: Teacher | None = None,
        z0_source: Z0Source = "latent",
        lambda_grid: float = 0.0,
        t_distribution: TDistribution = "uniform",
        head_lr: float | None = None,
        velocity_start: VelocityStart = "base",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if fidelity.scale != student.scale:
            raise ValueError(
                f"Expected a fidelity teacher with the student's scale {student.scale}, found {fidelity.scale}. "
                "Set both alike."
            )
        if head_lr is not None and not head_lr > 0:
            raise ValueError(f"Expected head_lr > 0, or null for the optimizer's learning rate, found {head_lr}.")
        if velocity_start == "student":
            velocity.begin_as(student.unet)
        self.student = Frozen(student)
        self.velocity, self.scale = velocity, student.scale
        self.fidelity, self.realness = fidelity, realness
        self.z0_source: Z0Source = z0_source
        self.lambda_grid = lambda_grid
        self.t_distribution: TDistribution = t_distribution
        self.head_lr = head_lr

    @property
    def tradeoff(self) -> TradeOff:
        """Student and velocity field as they restore together."""
        return TradeOff(self.student.network, self.velocity, self.z0_source)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The velocity's weights; those that start at zero in a group of their own if they have their own rate."""
        if self.head_lr is None:
            return super().parameter_groups()
        head = (p for layer in self.velocity.zero_layers() for p in layer.parameters())
        return self.groups_beside(head, self.head_lr)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The velocity-matching term, which needs no ground truth, and with `lambda_grid` the one against patches."""
        outputs = (
            self.frozen_outputs(batch.lq, batch.key)
            if self.output_cache is None
            else self._cached_outputs(self.output_cache, batch)
        )
        z_0, z_1 = outputs["z_0"], outputs["z_1"]
        control = self._times(z_0)
        latent = interpolate(z_0, z_1, control)
        velocity = self.velocity(latent, control, outputs.get("prompt"), outputs["z_l"])
        terms = {"velocity/match": velocity_matching(velocity, z_0, z_1)}
        if self.lambda_grid:
            student, gt = self.student.network, self.ground_truth(batch, "Set `lambda_grid` to 0.")
            end = student.decode(latent + (1.0 - control).view(-1, 1, 1, 1) * velocity)
            terms["rec/grid"] = self.lambda_grid * reconstruction.grid(end, gt, student.codec.factor)
        return terms

    def _times(self, like: Tensor) -> Tensor:
        """T of every sample."""
        if self.t_distribution == "zero":
            return like.new_zeros(len(like))
        drawn = self.draws.uniform(like)
        return drawn if self.t_distribution == "uniform" else drawn**3

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """Student, its prompt, and T_f."""
        student = self.student.network
        return {"student": student, "student.prompt": student.prompt, "fidelity": self.fidelity}

    def cached_names(self, split: Literal["train", "val"], *, pictures: bool) -> list[str]:
        """Latents and, where it varies, the prompt; of validation images T_f's restorations in place of latents."""
        shown = ["fidelity"] if pictures or split == "val" else []
        latents = ["z_l", "z_0", "z_1"] if split == "train" else []
        return [*latents, *shown, *(["prompt"] if self.student.network.prompt.varies else [])]

    @torch.no_grad()
    def frozen_outputs(
        self, lq: Tensor, keys: list[str] | None = None, split: Literal["train", "val"] = "train"
    ) -> dict[str, Tensor]:
        """All that the frozen networks have to say about images: `z_l`, `z_0`, `z_1`, `fidelity` and, if any, `prompt`.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
            split: `train`, or `val`, of which no latents are needed.

        Returns:
            z_L, z_0 and z_1 of shape (B, C, h', w'), T_f's restorations in [0, 1] and the embeddings c.
        """
        student = self.student.network
        outputs = {"fidelity": self.fidelity.restore(lq, keys)}
        if split == "train":
            z_0, lq_latent = self.tradeoff.start(lq, keys)
            outputs |= {"z_l": lq_latent, "z_0": z_0, "z_1": student.encode(outputs["fidelity"])}
        prompt = student.prompt(lq, keys)
        return outputs if prompt is None else {**outputs, "prompt": prompt}

    def _cached_outputs(self, cache: OutputCache, batch: Batch) -> dict[str, Tensor]:
        """Outputs of the frozen networks for a batch, read from the cache."""
        student = self.student.network
        names = ["z_l", "z_0", "z_1", *(["prompt"] if student.prompt.varies else [])]
        known = dict(zip(names, cache.read(batch.lq, *names), strict=True))
        if not student.prompt.varies and (prompt := student.prompt(batch.lq, batch.key)) is not None:
            known["prompt"] = prompt
        return known

    def cache_signature(self) -> dict[str, str]:
        """Identity of student, prompt and T_f, and the settings that their outputs depend on."""
        student = self.student.network
        return {
            "scale": str(self.scale),
            "z0_source": self.z0_source,
            "student": identity(student, without=student.prompt),
            "prompt": identity(student.prompt),
            "fidelity": identity(self.fidelity),
        }

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
