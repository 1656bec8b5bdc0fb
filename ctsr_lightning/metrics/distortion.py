"""PSNR and SSIM on the luma channel, as the field's tables report them."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsr_lightning.images import quantize, rgb_to_y
from ctsr_lightning.metrics.base import ImageMean

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, section III.C
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2  # K1 = 0.01, K2 = 0.03
_EPSILON = 1e-8  # as in the published tables' script; bounds the PSNR of equal images at 80 dB


def psnr_y(restored: Tensor, gt: Tensor) -> Tensor:
    """PSNR on BT.601 luma of 8-bit images, no border crop, in dB, shape (B,), float64.

    PSNR = -10 log10(mean((Y_1 - Y_2)^2) + 1e-8), Y in [0, 1] and itself not rounded.

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W).
        gt: Ground truth of the same shape.
    """
    difference = rgb_to_y(quantize(restored).double()) - rgb_to_y(quantize(gt).double())
    return -10.0 * torch.log10(difference.square().mean(dim=(1, 2, 3)) + _EPSILON)


def ssim_y(restored: Tensor, gt: Tensor) -> Tensor:
    """SSIM on BT.601 luma of 8-bit images, no border crop, in [0, 1], shape (B,), float64.

    Wang et al. 2004, equation 13: 11 x 11 Gaussian window of sigma 1.5, only where it lies wholly inside the image,
    data range 255. As in the published tables' script, Y is rounded to integers and the contrast-structure term
    is not allowed below zero.

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W).
        gt: Ground truth of the same shape.

    Raises:
        ValueError: If a side is shorter than the window.
    """
    if min(gt.shape[-2:]) < _WINDOW:
        raise ValueError(f"Expected images of at least {_WINDOW} x {_WINDOW} pixels for SSIM, found {tuple(gt.shape)}.")
    x, y = ((rgb_to_y(quantize(image).double()) * 255.0).round() for image in (restored, gt))
    mean_x, mean_y, square_x, square_y, product = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1)).unbind(dim=1)
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    contrast_structure = (2.0 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * contrast_structure.clamp(min=0.0)).mean(dim=(1, 2))


def _blur(maps: Tensor) -> Tensor:
    """Filter with the Gaussian window, along rows and then columns, without padding."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-offsets.square() / (2.0 * _SIGMA**2))
    weights = (window / window.sum()).tolist()
    for dim in (-1, -2):  # sums of shifted copies: on CPUs an order of magnitude faster than a float64 convolution
        length = maps.shape[dim] - _WINDOW + 1
        filtered = maps.narrow(dim, 0, length) * weights[0]
        for shift in range(1, _WINDOW):
            filtered.add_(maps.narrow(dim, shift, length), alpha=weights[shift])
        maps = filtered
    return maps


class PSNRY(ImageMean):
    """Mean over images of the PSNR on BT.601 luma (dB)."""

    higher_is_better = True
    definition = "PSNR in dB on Y of BT.601 YCbCr, Y not rounded, 1e-8 added to the mean squared error of [0, 1]"

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """PSNR-Y of each image."""
        return psnr_y(restored, gt)


class SSIMY(ImageMean):
    """Mean over images of the SSIM on BT.601 luma."""

    higher_is_better = True
    definition = "SSIM (Wang et al. 2004) on Y of BT.601 YCbCr rounded to integers, 11x11 Gaussian window, sigma 1.5"

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """SSIM-Y of each image."""
        return ssim_y(restored, gt)
