"""Transparency: colours where nothing is seen, and images over white."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def fill_transparent(colours: Tensor, alpha: Tensor) -> Tensor:
    """Replace colours that are not seen by those around, so that they do not bleed into visible ones.

    Averages of visible colours, weighted by alpha, at the finest of halved resolutions that has any.

    Args:
        colours: RGB in [0, 1], shape (3, h, w).
        alpha: In [0, 1], shape (1, h, w); colours stay where it is not 0.

    Returns:
        RGB in [0, 1], shape (3, h, w).
    """
    if not bool((alpha > 0).any()) or bool((alpha > 0).all()):
        return colours
    return torch.where(alpha > 0, colours, _filled((colours * alpha)[None], alpha[None])[0])


def _filled(sums: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of shape (1, 3, h, w), those of coarser resolutions where no weight is."""
    means = sums / weights.clamp(min=1e-12)
    if bool((weights > 0).all()) or sums.shape[-1] == sums.shape[-2] == 1:
        return means
    coarse = _filled(*(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (sums, weights)))
    around = F.interpolate(coarse, sums.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weights > 0, means, around).clamp(0.0, 1.0)


def over_white(colours: Tensor, alpha: Tensor) -> Tensor:
    """Composite an image over white.

    Args:
        colours: RGB in [0, 1], shape (3, h, w).
        alpha: In [0, 1], shape (1, h, w).
    """
    return colours * alpha + (1.0 - alpha)
