"""Perceptual distance without learned weights, from the strength and the place of texture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.metrics.base import PerceptualDistance

SCALES = (1, 2, 4)
"""Reductions of the image at which texture is measured."""
WINDOW = 5
"""Side of the windows over which strength is averaged, in pixels of each scale."""
FLOOR = 1e-4
"""Mean square (for images in [-1, 1]) below which texture counts as none: about 1.3 of 255 levels."""
_SMALLEST = 3 * max(SCALES)


def responses(image: Tensor) -> list[Tensor]:
    """Second differences along both axes at every scale.

    Args:
        image: Images in [0, 1], shape (B, 3, H, W).

    Returns:
        One tensor (B, 6, H / s, W / s) per scale s, for images in [-1, 1].

    Raises:
        ValueError: If the images are too small for the coarsest scale.
    """
    if min(image.shape[-2:]) < _SMALLEST:
        raise ValueError(f"Expected images of at least {_SMALLEST} pixels a side, found {tuple(image.shape)}.")
    found = []
    for scale in SCALES:
        x = F.pad(F.avg_pool2d(image * 2.0 - 1.0, scale), (1, 1, 1, 1), mode="reflect")
        centre = 2.0 * x[..., 1:-1, 1:-1]
        vertical = centre - x[..., :-2, 1:-1] - x[..., 2:, 1:-1]
        horizontal = centre - x[..., 1:-1, :-2] - x[..., 1:-1, 2:]
        found.append(torch.cat([vertical, horizontal], dim=1))
    return found


def local_mean(x: Tensor) -> Tensor:
    """Mean over windows, same size; outside the image there is nothing."""
    return F.avg_pool2d(x, WINDOW, stride=1, padding=WINDOW // 2)


class TextureDistance(PerceptualDistance):
    """The offline stand-in for LPIPS, under its own name: it needs no weights.

    With a, b the second differences of both images at a scale, E the mean over a window and c a floor, it is the mean
    over scales, colours, directions and places of

        ½ (1 - 2 √((E a² + c)(E b² + c)) / (E a² + E b² + 2c)) + ½ (1 - (E ab + c) / √((E a² + c)(E b² + c)))

    The first half compares the strength of texture, wherever exactly it is, and so punishes blur and noise; the second
    compares its place. 0 for equal images, at most 1.5.
    """

    definition = "stand-in of this project, not LPIPS: strength and place of second differences at scales 1, 2, 4"

    @property
    def name(self) -> str:
        """`texture_distance`."""
        return "texture_distance"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair, shape (B,).

        Args:
            x: Images in [0, 1], shape (B, 3, H, W), sides of at least 12 pixels.
            y: Images in [0, 1], same shape.

        Raises:
            ValueError: If the images are too small.
        """
        distances = []
        for a, b in zip(responses(x), responses(y), strict=True):
            strength_a, strength_b = local_mean(a.square()) + FLOOR, local_mean(b.square()) + FLOOR
            geometric = (strength_a * strength_b).sqrt()
            contrast = 1.0 - 2.0 * geometric / (strength_a + strength_b)
            structure = 1.0 - (local_mean(a * b) + FLOOR) / geometric
            distances.append((0.5 * (contrast + structure)).mean(dim=(1, 2, 3)))
        return torch.stack(distances).mean(dim=0)
