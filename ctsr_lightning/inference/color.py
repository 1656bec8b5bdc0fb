"""Colour correction: a restored image takes the colours of the enlarged input, over the whole image at once."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.inference.settings import Color

FLAT: Final = 1e-5**0.5
"""Standard deviation below which contrast is not amplified further, 0.8 grey levels of 8 bits: the root of what
StableSR and OSEDiff add to variances."""


def correct(image: Tensor, reference: Tensor, color: Color) -> Tensor:
    """Image with its colours corrected in one of the ways of `Color`; arguments as in `match_adain`."""
    if color == "none":
        return image
    return match_adain(image, reference) if color == "adain" else match_wavelet(image, reference)


@torch.no_grad()
def match_adain(image: Tensor, reference: Tensor) -> Tensor:
    """Image whose channels have the mean and the standard deviation of a reference's channels.

    y = (x - mean(x)) std(r) / std(x) + mean(r) per image and channel, the adaptive instance normalisation of Huang and
    Belongie 2017 (Eq. 8), on pixels. Its gain is std(r) / max(std(x), min(std(r), `FLAT`)): exact unless a nearly flat
    channel would have to be amplified, whose noise then stays noise, and a constant channel becomes the mean.

    StableSR's and OSEDiff's colour fix takes sample deviations and adds 1e-5 to both variances. Sample and population
    deviations (ours: they exist for a single pixel) have the same ratio, as both images have as many pixels; without
    the addition moments are exact, and at a usual deviation of 0.2 the results differ by 0.01 %.

    Args:
        image: RGB in [0, 1], shape (B, 3, H, W).
        reference: RGB in [0, 1] of the same shape, such as the input enlarged.

    Returns:
        RGB clipped to [0, 1], shape (B, 3, H, W), of the image's type, without gradients.

    Raises:
        ValueError: If shapes differ or are no such shapes, or the values are integers.
    """
    dtype = _checked(image, reference)
    (deviation, mean), (wanted, aim) = (
        torch.std_mean(x.to(dtype), dim=(-2, -1), correction=0, keepdim=True) for x in (image, reference)
    )
    least = wanted.clamp(max=FLAT).clamp_(min=torch.finfo(dtype).tiny)  # two constant channels: 0 / tiny, not 0 / 0
    gain = wanted / deviation.maximum(least)
    corrected = image.to(dtype) * gain
    return corrected.add_(aim - mean * gain).clamp_(0.0, 1.0).to(image.dtype)


@torch.no_grad()
def match_wavelet(image: Tensor, reference: Tensor, levels: int = 5) -> Tensor:
    """Image with the details of one image over the low frequencies of a reference.

    y = (x - low(x)) + low(r), where low(·) smooths `levels` times by [1 2 1] x [1 2 1] / 16 with holes: its taps lie
    2^k pixels apart at level k = 0, 1, ..., borders are repeated (the à-trous wavelets of StableSR's and OSEDiff's
    colour fix; five levels). The details of all levels add up to x - low(x), and smoothing is linear, so that y is
    computed as x + low(r - x): one channel at a time, within one image of extra memory.

    Args:
        image: RGB in [0, 1], shape (B, 3, H, W).
        reference: RGB in [0, 1] of the same shape, such as the input enlarged.
        levels: Levels of the wavelets; colours are those of the reference in patches of about 2^levels pixels.

    Returns:
        RGB clipped to [0, 1], shape (B, 3, H, W), of the image's type, without gradients.

    Raises:
        ValueError: If shapes differ or are no such shapes, the values are integers, or there is no level.
    """
    dtype = _checked(image, reference)
    if levels < 1:
        raise ValueError(f"Expected one or more levels of wavelets, found {levels}. The usual number is 5.")
    corrected = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    for result, x, r in zip(corrected.unbind(1), image.unbind(1), reference.unbind(1), strict=True):
        difference = _smooth_(r.to(dtype) - x, levels)
        result.copy_(difference.add_(x).clamp_(0.0, 1.0))
    return corrected


def _smooth_(planes: Tensor, levels: int) -> Tensor:
    """Smooth planes of shape (B, H, W) in place, along rows and then columns: the kernel is a product."""
    for level in range(levels):
        for dim in (-1, -2):
            length = planes.shape[dim]
            step = min(2**level, length)  # taps that far out are repeated borders anyway
            padded = F.pad(planes, (step, step, 0, 0) if dim == -1 else (0, 0, step, step), mode="replicate")
            planes.mul_(0.5)
            for start in (0, 2 * step):
                planes.add_(padded.narrow(dim, start, length), alpha=0.25)
    return planes


def _checked(image: Tensor, reference: Tensor) -> torch.dtype:
    """The type to compute in: float32, or float64 if the image comes in it."""
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape or image.shape != reference.shape:
        raise ValueError(
            "Expected an image and a reference of one shape (B, 3, H, W), found "
            f"{tuple(image.shape)} and {tuple(reference.shape)}. Enlarge the input to the image's size first."
        )
    if not (image.is_floating_point() and reference.is_floating_point()):
        raise ValueError(
            f"Expected floating-point images in [0, 1], found {image.dtype} and {reference.dtype}. Divide bytes by 255."
        )
    return torch.promote_types(image.dtype, torch.float32)
