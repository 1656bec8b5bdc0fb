"""The whole of CTSR at inference: one pass, every t."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.models.parts import Part, bare_unet
from ctsr_lightning.models.restoration_model import ControlKind, RestorationModel, control_on_latents
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.networks.lora import merged
from ctsr_lightning.networks.velocity import VelocityField

Z0Source = Literal["latent", "reencode"]
"""Where z_0 comes from: ẑ before decoding, or the paper's E(S_1(x)) after it."""


class TradeOff(RestorationModel):
    """Stage 1's student and stage 2's velocity field: z(t) = z_0 + t v(z_0, 0, c), x(t) = D(z(t)) (Eq. 6).

    (z_0, v) do not depend on t, so a sweep costs one pass and then one decode per value.

    Args:
        student: S_1.
        velocity: v.
        z0_source: `latent` takes ẑ before decoding, which makes t = 0 identical to stage 1 and saves a decode and an
            encode; `reencode` is the paper's E(S_1(x)). Must be the same in training and inference.

    Raises:
        ValueError: If `reencode` is to encode what a tuned decoder made.
    """

    method = "CTSR"

    def __init__(self, student: OneStepStudent, velocity: VelocityField, z0_source: Z0Source = "latent") -> None:
        super().__init__()
        if z0_source == "reencode" and student.codec.tuned:
            raise ValueError(
                "Expected the codec's own decoder for `z0_source: reencode`, found a tuned one, which the encoder does "
                "not undo. Leave `decoder` out of the codec, or use `z0_source: latent`."
            )
        self.student, self.velocity = student, velocity
        self.z0_source: Z0Source = z0_source

    @property
    def scale(self) -> int:  # type: ignore[override]  # nobody sets it
        """The student's enlargement."""
        return self.student.scale

    @property
    def codec(self) -> LatentCodec:  # type: ignore[override]  # nobody sets it
        """The student's codec."""
        return self.student.codec

    @property
    def multiple(self) -> int:
        """The student's."""
        return self.student.multiple

    @property
    def control_kind(self) -> ControlKind:
        """Maps as well: t is a factor of every latent's velocity."""
        return "map"

    @property
    def random(self) -> bool:
        """Whether the student samples its latent."""
        return self.student.random

    @torch.no_grad()
    def start(self, lq: Tensor, keys: list[str] | None = None) -> tuple[Tensor, Tensor]:
        """(z_0, z_L): where the path begins, and the latent of the low-quality image that it came from.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        lq_latent = self.student.start(lq)
        latent = self.student.latent(lq, lq_latent, keys)
        if self.z0_source == "reencode":
            latent = self._reencoded(self.student.decode(latent))
        return latent, lq_latent

    @torch.no_grad()
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """z_0 and v(z_0, 0, c), shape (B, 2 C, h, w)."""
        z_0, lq_latent = self.start(lq, keys)
        zero = torch.zeros(lq.shape[0], device=lq.device, dtype=z_0.dtype)
        return torch.cat([z_0, self.velocity(z_0, zero, self.student.prompt(lq, keys), lq_latent)], dim=1)

    @torch.no_grad()
    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """z(t) = z_0 + t v; a map is averaged over each latent's pixels.

        Raises:
            ValueError: If t leaves [0, 1] or the map's size is not the output's.
        """
        z_0, velocity = state.chunk(2, dim=1)
        if not isinstance(control, Tensor) and control == 0.0:  # z_0 itself, whatever v is
            return z_0
        return z_0 + control_on_latents(control, z_0, self.codec.factor) * velocity

    def prepare(self, dtype: torch.dtype) -> list[tuple[nn.Module, torch.dtype]]:
        """The student's networks, and the velocity's UNet."""
        self.velocity.unet = merged(self.velocity.unet)
        return [*self.student.prepare(dtype), (self.velocity.unet, dtype)]

    @torch.no_grad()
    def parts(self, lq: Tensor) -> list[Part]:
        """The student's parts, and the velocity field's."""
        encode, unet, decode = self.student.parts(lq)
        z_0, lq_latent = self.start(lq)
        zero, prompt, field = torch.zeros(len(lq), device=lq.device), self.student.prompt(lq), self.velocity
        bare = bare_unet(field.unet, z_0, zero, prompt)
        parts = [encode, unet]
        if self.z0_source == "reencode":
            parts.append(Part("decode and encode z_0", [self.codec], lambda: self._reencoded(decode.run())))
        velocity = Part("velocity field's UNet", [field.unet], lambda: field(z_0, zero, prompt, lq_latent), bare)
        return [*parts, velocity, decode]

    def _reencoded(self, image: Tensor) -> Tensor:
        """E(x) of the student's image x, clipped to [0, 1]."""
        return self.student.encode(image.clamp(0.0, 1.0))
