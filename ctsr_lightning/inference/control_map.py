"""Maps of the control t: from a mask that somebody painted, or from the photograph alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.images import read_image, resize_bicubic, rgb_to_y

DENOISED: Final = 0.7
"""Standard deviation in pixels of the smoothing before gradients are taken."""
AROUND: Final = 1.5
"""Standard deviation in pixels of the neighbourhood of a structure tensor: about a stroke of small print."""
LEAST_STRENGTH: Final = 0.03
"""Strength at which t = 1/2, of luma in [0, 1] per pixel, in images whose own strengths are lower."""
ABOVE_TEXTURE: Final = 1.75
"""The same as a multiple of the image's median strength, which noise and texture set."""
SOFTENED: Final = 2.0
"""Standard deviation in pixels of the smoothing of the map, so that no border of it shows."""
ASPECT: Final = 0.02
"""How far the ratio of a mask's sides may be from that of the photograph."""


@torch.no_grad()
def automatic_map(lq: Tensor) -> Tensor:
    """Map of t that is faithful at lettering, fine structure and strong edges, and realistic in texture.

    From the structure tensor J = G_ρ * (∇Y ∇Yᵀ) of luma, eigenvalues λ_1 >= λ_2: coherence c = (λ_1 - λ_2) /
    (λ_1 + λ_2), strength e = √(λ_1 + λ_2) (3/2 - c), so that gradients in all directions within a stroke's width, as in
    lettering, weigh three times those along one edge; t = e⁴ / (e⁴ + k⁴), then the maximum over 3 x 3 pixels, smoothed.
    k is the larger of `LEAST_STRENGTH` and `ABOVE_TEXTURE` times the median of e.

    Args:
        lq: The input, RGB in [0, 1], shape (B, 3, h, w).

    Returns:
        t in [0, 1], shape (B, 1, h, w).
    """
    luma = _smooth(rgb_to_y(lq.float()), DENOISED)
    x, y = _slope(luma, -1), _slope(luma, -2)
    xx, yy, xy = (_smooth(product, AROUND) for product in (x * x, y * y, x * y))
    energy = (xx + yy).clamp_min(1e-12)
    coherence = ((xx - yy).square() + 4.0 * xy.square()).sqrt() / energy
    strength = energy.sqrt() * (1.5 - coherence)
    half = (ABOVE_TEXTURE * strength.flatten(1).median(dim=1).values).clamp_min(LEAST_STRENGTH).view(-1, 1, 1, 1)
    control = 1.0 / (1.0 + (half / strength).pow(4))
    widened = F.max_pool2d(control, 3, stride=1, padding=1)
    return _smooth(widened, SOFTENED).clamp_(0.0, 1.0)


def read_map(path: str | Path, size: tuple[int, int]) -> Tensor:
    """Read a map of t from an image file: black is t = 0, realistic, white t = 1, faithful.

    Args:
        path: The file, of any size and of the photograph's shape.
        size: The photograph's height and width.

    Returns:
        Shape (1, 1, h, w) in the file's pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or of another shape.
    """
    mask = read_image(path).mean(dim=0)[None, None]
    height, width = mask.shape[-2:]
    if abs(width * size[0] / (height * size[1]) - 1.0) > ASPECT:
        raise ValueError(
            f"Expected a map of the photograph's shape, {size[1]}x{size[0]} or a multiple, found {width}x{height} in "
            f"'{path}'. Crop it to the same part."
        )
    return mask


def fit_map(control: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of t in another size, as a restorer takes it.

    Args:
        control: t in [0, 1], shape (B, 1, h, w).
        size: Height and width of the model's own output.

    Returns:
        Shape (B, 1, H, W).
    """
    return control if tuple(control.shape[-2:]) == size else resize_bicubic(control, size)


def _slope(planes: Tensor, dim: int) -> Tensor:
    """Central differences per pixel, borders repeated."""
    pad = (1, 1, 0, 0) if dim == -1 else (0, 0, 1, 1)
    padded, length = F.pad(planes, pad, mode="replicate"), planes.shape[dim]
    return 0.5 * (padded.narrow(dim, 2, length) - padded.narrow(dim, 0, length))


def _smooth(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of planes (B, 1, h, w), borders repeated."""
    reach = round(3.0 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=planes.device) / sigma).square()).to(planes)
    kernel = weights / weights.sum()
    padded = F.pad(planes, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
