"""Random symmetries and views of pairs of images, against patterns that fool a perceptual distance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 8
"""Largest shift of a view along each side in pixels."""
SMALLEST = 0.5
"""Smallest scale of a view."""
DIMMEST = 0.5
"""Smallest contrast of a view's colours."""


def random_symmetry(images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Mirror and turn several batches of images in the same random one of the square's eight ways.

    Args:
        images: Batches of square images, such as low-quality images and their ground truth.
        generator: Source of the choice, on the CPU.
    """
    choice = int(torch.randint(0, 8, (), generator=generator))
    for bit, turn in enumerate((lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2))):
        if choice >> bit & 1:
            images = [turn(image) for image in images]
    return [image.contiguous() for image in images]


def random_view(restored: Tensor, gt: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Transform two batches of images in the same random way, by the transformations of E-LPIPS.

    Networks trained on a perceptual distance paint faint patterns that its features take for detail. Such patterns do
    not survive mirroring, turning, shifting, shrinking and other colours; detail does. With one view per step, the mean
    over steps is the distance of Kettunen et al., "E-LPIPS: Robust Perceptual Image Similarity via Random
    Transformation Ensembles" (2019), Section 4, without the dropout.

    Args:
        restored: x̂ in [0, 1], shape (B, 3, H, W).
        gt: x_GT in [0, 1], same shape.
        generator: Source of the view, on the CPU.

    Returns:
        Both views, values in [0, 1] if the images' are.
    """

    def draw(count: int) -> int:
        return int(torch.randint(0, count, (), generator=generator))

    def uniform(low: float) -> float:
        return low + (1.0 - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    pair = torch.cat([restored, gt])
    height, width = pair.shape[-2:]
    room = min(SHIFT, (min(height, width) - 1) // 8)  # small images keep most of themselves
    top, left = draw(room + 1), draw(room + 1)
    pair = pair[..., top : height - room + top, left : width - room + left]
    if draw(2):
        pair = pair.flip(-1)
    if draw(2):
        pair = pair.flip(-2)
    if draw(2):
        pair = pair.transpose(-1, -2)
    if draw(2):
        pair = F.interpolate(pair, scale_factor=uniform(SMALLEST), mode="bilinear", antialias=True, align_corners=False)
    pair = pair[:, torch.randperm(3, generator=generator)]
    contrast = torch.tensor([uniform(DIMMEST) for _ in range(3)])
    offset = torch.tensor([uniform(0.0) for _ in range(3)]) * (1.0 - contrast)
    pair = pair * contrast.to(pair).view(1, 3, 1, 1) + offset.to(pair).view(1, 3, 1, 1)
    return pair[: len(restored)], pair[len(restored) :]
