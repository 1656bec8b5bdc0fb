"""Models that restore images, behind one interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit
from ctsr_lightning.control import check_range
from ctsr_lightning.models.parts import Part

ControlKind = Literal["none", "number", "map"]
"""Values of t that a model takes: 0 alone, one number per image, or maps as well."""


def extremes(control: float | Tensor) -> tuple[float, ...]:
    """Smallest and largest value of t, or of a map of it: one wait for the device; nothing of an empty map.

    Args:
        control: t, or a map of it.
    """
    if not isinstance(control, Tensor):
        return (float(control),)
    low, high = torch.stack(control.detach().double().aminmax()).tolist() if control.numel() else (math.nan, math.nan)
    return (low,) if low == high else (low, high)


def control_on_latents(control: float | Tensor, latent: Tensor, factor: int) -> float | Tensor:
    """Check t, and bring a map of it to the latents' grid by averaging over each latent's pixels.

    Args:
        control: t in [0, 1], or a map of it in pixels, shape (H, W), (B, H, W) or (B, 1, H, W).
        latent: The latents, shape (B, C, h, w).
        factor: Pixels per latent along each axis.

    Returns:
        A number as it is, a map as shape (B or 1, 1, h, w).

    Raises:
        ValueError: If t leaves [0, 1] or the map's size is not the image's.
    """
    check_range(extremes(control))
    if not isinstance(control, Tensor) or control.dim() == 0:
        return control
    expected = (latent.shape[-2] * factor, latent.shape[-1] * factor)
    batch, leading = latent.shape[0], tuple(control.shape[:-2])
    if control.shape[-2:] != expected or leading not in {(), (1,), (batch,), (1, 1), (batch, 1)}:
        raise ValueError(
            f"Expected a map of t with the output's height and width {expected} and at most one channel, "
            f"found shape {tuple(control.shape)}."
        )
    return F.avg_pool2d(control.to(latent).reshape(-1, 1, *expected), factor)


class RestorationModel(nn.Module, ABC):
    """A model that restores images at values of t, from 0 (realness) to 1 (fidelity).

    x(t) = D(z(t)), in steps, so that large images can be computed in tiles and values of t share what they can:
    `shared`, tile by tile; `begin`, on the latents of the whole image; `advance`, tile by tile, in models whose passes
    need what `begin` has drawn and no t; `at`, tile by tile and for every t.
    """

    method: str = "model"
    """The method's name, for tables and plots."""
    scale: int
    """Enlargement."""
    codec: LatentCodec
    """The autoencoder; tiles of `shared` and of `at` meet on the grid of its latents."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""

    @property
    @abstractmethod
    def control_kind(self) -> ControlKind:
        """Values of t that it takes."""

    @property
    def cell(self) -> int:
        """Tiles of `at` start and end at multiples of this many latents, which divides `multiple` / `codec.factor`."""
        return 1

    @property
    def random(self) -> bool:
        """Whether results depend on a seed."""
        return False

    @abstractmethod
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """All that no value of t changes.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w); scale * h and scale * w are multiples of `multiple`.
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            Shape (B, C', h', w') on the grid of the latents: one or more of them along the channels.
        """

    def begin(self, shared: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """The state that `advance` goes on from, with random numbers once for the whole image; here `shared` itself.

        Args:
            shared: From `shared`, its tiles joined.
            generator: Where random numbers come from, for images that are to have the same; None draws from the global
                generator.

        Returns:
            Shape (B, C'', h', w').
        """
        return shared

    @property
    def advances(self) -> bool:
        """Whether `advance` does anything."""
        return type(self).advance is not RestorationModel.advance

    def advance(self, state: Tensor, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002
        """The state after all passes that no value of t changes; here `state` itself.

        Args:
            state: From `begin`, or a tile of it.
            lq: Low-quality images as in `shared`, or the same tile of them.
            keys: As in `shared`.

        Returns:
            Shape (B, ..., h', w').
        """
        return state

    @abstractmethod
    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """z(t).

        Args:
            state: From `advance`, or a tile of it.
            control: t in [0, 1]; for maps, one in pixels of the tile, shape (H, W), (B, H, W) or (B, 1, H, W).

        Returns:
            Latents, shape (B, C, h', w'), float32 or better.

        Raises:
            ValueError: If it is no t, or none that this model takes.
        """

    @torch.no_grad()
    def at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """x(t) = D(z(t)), clipped to [0, 1]; arguments as in `latent_at`."""
        return signed_to_unit(self.codec.decode(self.latent_at(state, control))).clamp(0.0, 1.0)

    def restore(self, lq: Tensor, control: float | Tensor = 0.0, keys: list[str] | None = None) -> Tensor:
        """Restore at one t, without tiles; arguments as in `shared` and `latent_at`."""
        return self.sweep(lq, [control], keys)[0]

    @torch.no_grad()
    def sweep(self, lq: Tensor, controls: Sequence[float | Tensor], keys: list[str] | None = None) -> list[Tensor]:
        """Restore at several t, which share what they can."""
        state = self.advance(self.begin(self.shared(lq, keys)), lq, keys)
        return [self.at(state, control) for control in controls]

    def check_control(self, control: float | Tensor) -> None:
        """Refuse values of t that this model cannot restore at.

        Args:
            control: t, or a map of it.

        Raises:
            ValueError: If t leaves [0, 1], is not 0 for a model without a slider, or is a map for one that takes
                numbers.
        """
        high = check_range(extremes(control))[-1]
        if self.control_kind == "none" and high > 0.0:
            raise ValueError(
                f"Expected t = 0 for a model without a slider ({type(self).__name__}), found t = {high:g}. Of CTSR use "
                "a checkpoint of stage 2 (CTSRStage2), of a student in steps more than one."
            )
        if self.control_kind == "number" and isinstance(control, Tensor) and control.dim() > 0:
            raise ValueError(
                f"Expected a number t for {type(self).__name__}, found a map of shape {tuple(control.shape)}: t enters "
                "the time embedding of its network, of which an image has one. Give one number for the whole image, "
                "or let the map mix the images of t = 0 and t = 1 (`space: image`)."
            )

    def prepare(self, dtype: torch.dtype) -> list[tuple[nn.Module, torch.dtype]]:
        """Merge adapters, in place, and tell the types that networks have in inference; here those of the codec.

        Args:
            dtype: The type that inference is to be computed in.

        Returns:
            Networks that take inputs of another type than their own, and the type for each. All else stays float32 or
            better.
        """
        encoder, decoder = self.codec.halves()
        return [(part, dtype) for part in (*encoder, *decoder)]

    @torch.no_grad()
    def parts(self, lq: Tensor) -> list[Part]:
        """The passes of a restoration, for their cost.

        Args:
            lq: Low-quality images as in `shared`.
        """
        state = self.advance(self.begin(self.shared(lq)), lq)
        return [
            Part("shared by every t", [self], lambda: self.shared(lq)),
            Part("image at one t", [self], lambda: self.at(state, 0.0), per_t=True),
        ]
