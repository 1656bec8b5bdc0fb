"""The whole of CTSR at inference: one pass, every t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.networks.velocity import VelocityField

Z0Source = Literal["latent", "reencode"]
"""Where z_0 comes from: ẑ before decoding, or the paper's E(S_1(x)) after it."""


class TradeOff(nn.Module):
    """Stage 1's student and stage 2's velocity field: z(t) = z_0 + t v(z_0, 0, c), x(t) = D(z(t)) (Eq. 6).

    (z_0, v) do not depend on t, so a sweep costs one pass and then one decode per value.

    Args:
        student: S_1.
        velocity: v.
        z0_source: `latent` takes ẑ before decoding, which makes t = 0 identical to stage 1 and saves a decode and an
            encode; `reencode` is the paper's E(S_1(x)). Must be the same in training and inference.
    """

    def __init__(self, student: OneStepStudent, velocity: VelocityField, z0_source: Z0Source = "latent") -> None:
        super().__init__()
        self.student, self.velocity = student, velocity
        self.z0_source: Z0Source = z0_source

    @property
    def scale(self) -> int:
        """The student's enlargement."""
        return self.student.scale

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
            latent = self.student.encode(self.student.decode(latent).clamp(0.0, 1.0))
        return latent, lq_latent

    @torch.no_grad()
    def endpoints(self, lq: Tensor, keys: list[str] | None = None) -> tuple[Tensor, Tensor]:
        """(z_0, v(z_0, 0, c)), which no value of t changes.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        z_0, lq_latent = self.start(lq, keys)
        zero = torch.zeros(lq.shape[0], device=lq.device, dtype=z_0.dtype)
        return z_0, self.velocity(z_0, zero, self.student.prompt(lq, keys), lq_latent)

    @torch.no_grad()
    def decode(self, z_0: Tensor, velocity: Tensor, control: float | Tensor) -> Tensor:
        """x(t) = D(z_0 + t v), clipped to [0, 1].

        Args:
            z_0: Start of the path, shape (B, C, h, w).
            velocity: v(z_0, 0, c).
            control: t in [0, 1], or a map of it in pixels of the output, shape (H, W), (B, H, W) or (B, 1, H, W).

        Raises:
            ValueError: If t leaves [0, 1] or the map's size is not the output's.
        """
        if not isinstance(control, Tensor) and control == 0.0:  # z_0 itself, whatever v is
            return self.student.decode(z_0).clamp(0.0, 1.0)
        return self.student.decode(z_0 + self._control(control, z_0) * velocity).clamp(0.0, 1.0)

    def restore(self, lq: Tensor, control: float | Tensor = 0.0, keys: list[str] | None = None) -> Tensor:
        """Restore at one t (or one map of t); arguments as in `endpoints` and `decode`."""
        return self.decode(*self.endpoints(lq, keys), control)

    def sweep(self, lq: Tensor, controls: Sequence[float], keys: list[str] | None = None) -> list[Tensor]:
        """Restore at several t: one pass, one decode each."""
        z_0, velocity = self.endpoints(lq, keys)
        return [self.decode(z_0, velocity, control) for control in controls]

    def _control(self, control: float | Tensor, latent: Tensor) -> float | Tensor:
        """Check t and bring a map to the latent's grid by averaging over each latent's pixels."""
        values = control if isinstance(control, Tensor) else torch.tensor(control, dtype=torch.float64)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0.0 and high <= 1.0):  # in this form NaN is refused too
            found = f"{low}" if low == high else f"values from {low} to {high}"
            raise ValueError(f"Expected the control t in [0, 1] (0 realness, 1 fidelity), found {found}.")
        if not isinstance(control, Tensor) or control.dim() == 0:
            return control
        factor = self.student.codec.factor
        expected = (latent.shape[-2] * factor, latent.shape[-1] * factor)
        batch, leading = latent.shape[0], tuple(control.shape[:-2])
        if control.shape[-2:] != expected or leading not in {(), (1,), (batch,), (1, 1), (batch, 1)}:
            raise ValueError(
                f"Expected a map of t with the output's height and width {expected} and at most one channel, "
                f"found shape {tuple(control.shape)}."
            )
        mapped = control.to(latent).reshape(-1, 1, *expected)
        return F.avg_pool2d(mapped, factor)
