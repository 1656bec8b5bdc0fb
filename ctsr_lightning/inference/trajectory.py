"""Paths over t that restorations lie on, and the checks of what they are made from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ctsr_lightning.control import check_range
from ctsr_lightning.inference.settings import Space
from ctsr_lightning.models.restoration_model import extremes


class Trajectory(NamedTuple):
    """The path over t on which every restoration of an image lies: in CTSR the straight line z_0 + t v (Eq. 6)."""

    state: Tensor
    """What the model goes on from at every t (`RestorationModel.advance`), shape (B, C, H / f, W / f); in CTSR z_0 and
    v(z_0, 0, c) along the channels. In the image's space x(0) and x(1), shape (B, 6, H, W)."""
    size: tuple[int, int]
    """Height and width of the restored image; the latents may reach beyond, as networks need certain multiples."""
    lq: Tensor
    """The input, RGB in [0, 1], shape (B, 3, h, w), whose colours a correction takes over at every t."""
    space: Space = "latent"
    """Where t acts."""

    def between(self, t: float | Tensor) -> Tensor:
        """x(t) = (1 - t) x(0) + t x(1) in the image's space, shape (B, 3, H, W).

        Args:
            t: Control, or a map of it in the model's pixels.

        Raises:
            ValueError: If t leaves [0, 1] or the map's size is not the image's.
        """
        check_range(extremes(t))
        realistic, faithful = self.state.chunk(2, dim=1)
        if isinstance(t, Tensor) and t.dim() > 0:
            return realistic.lerp(faithful, map_planes(t, self.size, realistic.device).to(realistic))
        return realistic.lerp(faithful, float(t))


class RestorationError(ValueError):
    """An image on which the networks fail."""


def check_finite(values: Tensor, *, half: bool) -> None:
    """Refuse what networks must not give.

    Args:
        values: Their output.
        half: Whether they have a half type.

    Raises:
        RestorationError: If a value is not finite.
    """
    if not bool(torch.stack(values.aminmax()).isfinite().all()):  # NaN is an extreme; of all values it takes copies
        remedy = "Compute in float32." if half else "The weights are damaged, or diverged in training."
        raise RestorationError(f"The model produced NaN or infinite pixels. {remedy}")


def map_planes(control: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """A map of t as planes, float32, shape (B, 1, H, W).

    Args:
        control: The map, shape (H, W), (B, H, W) or (B, 1, H, W).
        size: Height and width that it is to have.
        device: Where it is needed.

    Raises:
        ValueError: If its size is another one.
    """
    if control.dim() not in {2, 3, 4} or tuple(control.shape[-2:]) != size:
        raise ValueError(
            f"Expected a map of t with the output's height and width {size}, found shape {tuple(control.shape)}."
        )
    return control.to(device, torch.float32).reshape(-1, 1, *size)


def checked_images(lq: Tensor) -> Tensor:
    """Images as a batch, shape (B, 3, h, w).

    Args:
        lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).

    Raises:
        ValueError: If shape, type or range are others.
    """
    if lq.dim() not in {3, 4} or lq.shape[-3] != 3 or 0 in lq.shape:
        raise ValueError(f"Expected images of shape (3, h, w) or (B, 3, h, w), found {tuple(lq.shape)}.")
    if not lq.is_floating_point():
        raise ValueError(f"Expected floating-point images in [0, 1], found {lq.dtype}. Divide bytes by 255.")
    low, high = float(lq.min()), float(lq.max())
    if not (low >= 0.0 and high <= 1.0):  # also false for NaN
        raise ValueError(f"Expected images in [0, 1], found values from {low} to {high}.")
    return lq if lq.dim() == 4 else lq[None]
