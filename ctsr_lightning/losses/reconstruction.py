"""Errors between a restored image and its ground truth."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def l2(restored: Tensor, gt: Tensor) -> Tensor:
    """‖x̂ - x_GT‖² of Eq. 1: the mean squared error of images in [-1, 1].

    Args:
        restored: x̂ in [0, 1], shape (B, 3, H, W).
        gt: x_GT in [0, 1].
    """
    return F.mse_loss(restored * 2.0 - 1.0, gt * 2.0 - 1.0)


def l1(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute error of images in [-1, 1]; arguments as in `l2`."""
    return F.l1_loss(restored * 2.0 - 1.0, gt * 2.0 - 1.0)
