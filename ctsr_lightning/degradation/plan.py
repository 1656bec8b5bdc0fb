"""A drawn degradation: all parameters of one image's blur, resize, noise and JPEG as plain numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ctsr_lightning.degradation.kernels import (
    gaussian_kernel,
    generalized_gaussian_kernel,
    plateau_kernel,
    sinc_kernel,
)
from ctsr_lightning.degradation.operators import ResizeMode, filter2d, gaussian_noise, jpeg, poisson_noise, resize
from ctsr_lightning.images import quantize, resize_bicubic

KernelFamily = Literal["gaussian", "generalized", "plateau", "sinc"]


@dataclass(frozen=True)
class KernelPlan:
    """One blur kernel."""

    family: KernelFamily
    """The formula; see `ctsr_lightning.degradation.kernels`."""
    size: int
    """Side length in pixels, odd."""
    sigma_x: float = 1.0
    """Scale along the first principal axis, in pixels; not used by sinc."""
    sigma_y: float = 1.0
    """Scale along the second principal axis."""
    rotation: float = 0.0
    """Angle of the first principal axis in radians."""
    beta: float = 1.0
    """Shape exponent of the generalized and the plateau family."""
    cutoff: float = 1.0
    """Pass band of the sinc kernel in radians per pixel."""

    def build(self) -> Tensor:
        """Compute the kernel, shape (size, size), float64."""
        if self.family == "gaussian":
            return gaussian_kernel(self.size, self.sigma_x, self.sigma_y, self.rotation)
        if self.family == "generalized":
            return generalized_gaussian_kernel(self.size, self.beta, self.sigma_x, self.sigma_y, self.rotation)
        if self.family == "plateau":
            return plateau_kernel(self.size, self.beta, self.sigma_x, self.sigma_y, self.rotation)
        return sinc_kernel(self.size, self.cutoff)


@dataclass(frozen=True)
class NoisePlan:
    """One noise, reproducible by its seed."""

    kind: Literal["gaussian", "poisson"]
    """The distribution."""
    level: float
    """Standard deviation in levels of 0..255 (gaussian) or scale of the shot noise (poisson)."""
    grey: bool
    """Whether the three channels share one noise."""
    seed: int
    """Seed of the generator that the noise is drawn from."""

    def apply(self, image: Tensor) -> Tensor:
        """Add the noise to (1, 3, H, W)."""
        generator = torch.Generator().manual_seed(self.seed)
        add = gaussian_noise if self.kind == "gaussian" else poisson_noise
        return add(image, self.level, grey=self.grey, generator=generator)


@dataclass(frozen=True)
class OrderPlan:
    """Blur, resize, noise and compression: one pass of the classical degradation model."""

    kernel: KernelPlan | None
    """The blur, or None for none."""
    factor: float
    """Size after this pass, relative to the ground truth (first pass) or to ground truth / scale (second)."""
    mode: ResizeMode
    """Interpolation of the resize."""
    noise: NoisePlan
    """The noise."""
    quality: int
    """JPEG quality."""


@dataclass(frozen=True)
class DegradationPlan:
    """All random choices for one image; the same plan gives the same low-quality image anywhere."""

    scale: int
    """Ratio of the ground truth's size to the low-quality size."""
    first: OrderPlan
    """The first pass."""
    second: OrderPlan
    """The second pass; its compression belongs to the final stage."""
    kernel: KernelPlan | None
    """The final sinc filter, or None for none."""
    mode: ResizeMode
    """Interpolation of the final resize."""
    jpeg_last: bool
    """Whether the final resize and sinc filter come before the last compression rather than after it."""

    def apply(self, gt: Tensor) -> Tensor:
        """Degrade one image (1, 3, H, W) to (1, 3, H / scale, W / scale), rounded to 8 bits.

        Raises:
            ValueError: If the size is no multiple of the scale.
        """
        h, w = gt.shape[-2:]
        small = _divided((h, w), self.scale)

        x = _blur(gt, self.first.kernel)
        x = resize(x, _scaled((h, w), self.first.factor), self.first.mode)
        x = self.first.noise.apply(x)
        x = jpeg(x, [self.first.quality])

        x = _blur(x, self.second.kernel)
        x = resize(x, _scaled((h / self.scale, w / self.scale), self.second.factor), self.second.mode)
        x = self.second.noise.apply(x)

        if self.jpeg_last:
            x = _blur(resize(x, small, self.mode), self.kernel)
            x = jpeg(x, [self.second.quality])
        else:
            x = jpeg(x, [self.second.quality])
            x = _blur(resize(x, small, self.mode), self.kernel)
        return quantize(x)


@dataclass(frozen=True)
class BicubicPlan:
    """Nothing but a smaller size: no random choice."""

    scale: int
    """Ratio of the ground truth's size to the low-quality size."""

    def apply(self, gt: Tensor) -> Tensor:
        """Shrink one image (1, 3, H, W) to (1, 3, H / scale, W / scale) without aliasing, rounded to 8 bits.

        Raises:
            ValueError: If the size is no multiple of the scale.
        """
        h, w = gt.shape[-2:]
        return quantize(resize_bicubic(gt, _divided((h, w), self.scale)))


Plan = DegradationPlan | BicubicPlan
"""What a recipe draws for one image."""


def apply_plans(gt: Tensor, plans: Sequence[Plan]) -> Tensor:
    """Degrade a batch (B, 3, H, W), each image by its own plan; the result is that of one image at a time.

    The images of a batch are resized to different sizes in between, so they are worked on one after the other.

    Args:
        gt: Ground truth, RGB in [0, 1]; sizes divisible by the scale.
        plans: One plan per image.

    Returns:
        Low-quality images (B, 3, H / scale, W / scale) in [0, 1], rounded to 8 bits.
    """
    with torch.no_grad(), one_thread():
        return torch.cat([plan.apply(one) for plan, one in zip(plans, gt.split(1), strict=True)])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: loader workers do, and the main process must give the same bits.

    It is also faster: the images are small, and threads that wait for each other cost more than they save.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _blur(image: Tensor, kernel: KernelPlan | None) -> Tensor:
    return image if kernel is None else filter2d(image, kernel.build())


def _divided(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Size divided by the scale, without a remainder."""
    h, w = size
    if h % scale or w % scale:
        raise ValueError(f"Expected a size divisible by the scale {scale}, found {w}x{h}. Crop the image first.")
    return h // scale, w // scale


def _scaled(size: tuple[float, float], factor: float) -> tuple[int, int]:
    """Size times factor, rounded down as in Real-ESRGAN, at least one pixel."""
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
