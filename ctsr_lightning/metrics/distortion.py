"""PSNR and SSIM on luma, as tables of super-resolution report them, and PSNR on RGB, as those of low light do."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsr_lightning.images import quantize, rgb_to_y
from ctsr_lightning.metrics.base import ImageMean

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, section III.C
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2  # K1 = 0.01, K2 = 0.03
_GREY = (0.299, 0.587, 0.114)  # full-swing luma of BT.601, OpenCV's grey
_EPSILON = 1e-8  # as in the published tables' script; bounds the PSNR of equal images at 80 dB


def psnr_y(restored: Tensor, gt: Tensor) -> Tensor:
    """PSNR on BT.601 luma of 8-bit images, no border crop, in dB, shape (B,), float64.

    PSNR = -10 log10(mean((Y_1 - Y_2)^2) + 1e-8), Y in [0, 1] and itself not rounded.

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W).
        gt: Ground truth of the same shape.
    """
    return _psnr(rgb_to_y(quantize(restored).double()), rgb_to_y(quantize(gt).double()))


def psnr_rgb(restored: Tensor, gt: Tensor) -> Tensor:
    """PSNR on all three channels of 8-bit images, no border crop, in dB, shape (B,), float64.

    PSNR = -10 log10(mean((x_1 - x_2)^2) + 1e-8) over channels and pixels, x in [0, 1].

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W).
        gt: Ground truth of the same shape.
    """
    return _psnr(quantize(restored).double(), quantize(gt).double())


def psnr_rgb_gtmean(restored: Tensor, gt: Tensor) -> Tensor:
    """PSNR on RGB after the restored image was brought to the ground truth's brightness, in dB, shape (B,), float64.

    `psnr_rgb` of clip(x m(x_GT) / m(x), 0, 1), where m is the mean of 0.299 R + 0.587 G + 0.114 B, of 8-bit images.
    KinD, LLFlow and GSAD report their PSNR so (GSAD cuts the product off to 8 bits; here it is not rounded). As it
    takes the brightness from the ground truth, it tells of noise, colours and contrast alone.

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W). A black image stays black.
        gt: Ground truth of the same shape.
    """
    x, y = quantize(restored).double(), quantize(gt).double()
    found, wanted = ((image * image.new_tensor(_GREY).view(3, 1, 1)).sum(dim=1).mean(dim=(1, 2)) for image in (x, y))
    gain = wanted / found.clamp(min=torch.finfo(torch.float64).tiny)
    return _psnr((x * gain.view(-1, 1, 1, 1)).clamp(max=1.0), y)


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    return -10.0 * torch.log10((x - y).square().mean(dim=(1, 2, 3)) + _EPSILON)


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


class PSNRRGB(ImageMean):
    """Mean over images of the PSNR on RGB (dB)."""

    higher_is_better = True
    definition = "PSNR in dB on the three channels of RGB, 1e-8 added to the mean squared error of [0, 1]"

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """PSNR on RGB of each image."""
        return psnr_rgb(restored, gt)


class PSNRRGBGTMean(ImageMean):
    """Mean over images of the PSNR on RGB at the ground truth's brightness (dB)."""

    higher_is_better = True
    definition = (
        "psnr_rgb after the restored image was multiplied by the ground truth's mean of 0.299 R + 0.587 G + 0.114 B "
        "over its own, and clipped (GT-mean of KinD, LLFlow and GSAD)"
    )

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """PSNR on RGB of each image at the ground truth's brightness."""
        return psnr_rgb_gtmean(restored, gt)
