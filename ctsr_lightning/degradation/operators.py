"""Image operators of the degradation: tensors (B, 3, H, W) in [0, 1], on any device.

Random operators draw from a CPU generator whatever the device of the image, one uniform or normal number per pixel
and channel, so that one seed gives one picture everywhere.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ctsr_lightning.images import quantize

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")

# Grey of ITU-R BT.601 in full swing: the grey of Pillow, OpenCV and torchvision.
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def filter2d(image: Tensor, kernels: Tensor) -> Tensor:
    """Correlate each image with its own kernel, borders continued by reflection; the size stays.

    Args:
        image: Shape (B, C, H, W).
        kernels: Shape (B, k, k), or (k, k) for all; k odd. Computed in the dtype of the image.
    """
    b, c, h, w = image.shape
    k = kernels.shape[-1]
    weight = kernels.to(image).expand(b, k, k).repeat_interleave(c, dim=0).unsqueeze(1)
    padded = reflect_pad(image, k // 2)
    return F.conv2d(padded.reshape(1, b * c, *padded.shape[-2:]), weight, groups=b * c).view(b, c, h, w)


def reflect_pad(image: Tensor, pad: int) -> Tensor:
    """Continue an image by mirroring at its border pixels, as often as needed: images may be smaller than the pad.

    Args:
        image: Shape (B, C, H, W).
        pad: Number of pixels on each side.
    """
    h, w = image.shape[-2:]
    if pad < min(h, w):
        return F.pad(image, (pad, pad, pad, pad), mode="reflect")
    rows, columns = _mirror(h, pad).to(image.device), _mirror(w, pad).to(image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def _mirror(length: int, pad: int) -> Tensor:
    """Indices of a triangle wave with period 2 (length - 1): ... 2 1 | 0 1 2 ... | ..."""
    period = max(2 * (length - 1), 1)
    position = torch.arange(-pad, length + pad) % period
    return torch.minimum(position, period - position) if length > 1 else torch.zeros_like(position)


def resize(image: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resize as Real-ESRGAN and its successors do: no antialiasing, corners not aligned.

    Without antialiasing, `bilinear` and `bicubic` shrink like OpenCV's, reading 2 or 4 pixels per axis however far they
    shrink. The aliasing this makes is wanted: it is one of the defects that a restorer must know. `area` averages.

    Args:
        image: Shape (B, C, H, W).
        size: Height and width of the result.
        mode: The interpolation.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode=mode, align_corners=None if mode == "area" else False)


def gaussian_noise(image: Tensor, sigma: float, *, grey: bool, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise and clip to [0, 1].

    Args:
        image: Shape (B, 3, H, W).
        sigma: Standard deviation in levels of 0..255.
        grey: Whether the three channels share one noise.
        generator: Source of the noise, on the CPU.
    """
    b, c, h, w = image.shape
    noise = torch.randn(b, 1 if grey else c, h, w, generator=generator).to(image)
    return (image + noise * (sigma / 255.0)).clamp(0.0, 1.0)


def poisson_noise(image: Tensor, scale: float, *, grey: bool, generator: torch.Generator) -> Tensor:
    """Add shot noise and clip to [0, 1].

    With x the image rounded to 8 bits and V the number of its distinct levels, rounded up to a power of two,
    the noise is scale * (n / V - x), n ~ Poisson(V x): its variance is scale^2 x / V, and it has mean zero
    (Real-ESRGAN, section 3.1). Grey noise is that of the grey image, added to all channels.

    The counts come from one uniform number per pixel through the inverse of the distribution function, not from a
    rejection sampler: a rounding difference between two devices then moves one pixel, not all that follow.

    Args:
        image: Shape (B, 3, H, W).
        scale: Strength of the noise; 1 is that of the formula without scaling.
        grey: Whether the three channels share one noise.
        generator: Source of the noise, on the CPU.
    """
    source = image
    if grey:
        weights = image.new_tensor(GREY_WEIGHTS).view(3, 1, 1)
        source = (image * weights).sum(dim=1, keepdim=True)
    levels = quantize(source).mul(255.0).round().long()
    uniform = torch.rand(levels.shape, generator=generator, dtype=torch.float64).to(image.device)
    noise = torch.stack([_shot_noise(one, u) for one, u in zip(levels, uniform, strict=True)])
    return (image + scale * noise.to(image)).clamp(0.0, 1.0)


def _shot_noise(levels: Tensor, uniform: Tensor) -> Tensor:
    """Noise n / V - x for one image of integer levels 0..255 and uniform numbers in [0, 1), in float64."""
    distinct = int((torch.bincount(levels.flatten(), minlength=256) > 0).sum())
    photons = 2 ** math.ceil(math.log2(distinct))
    table = _poisson_table(photons).to(levels.device)
    # Row r of the table is F_r + r: one sorted sequence, so one search serves all rates.
    position = torch.searchsorted(table.flatten(), uniform + levels, right=True)
    counts = position - levels * table.shape[1]
    return counts / photons - levels / 255.0


@functools.lru_cache(maxsize=9)
def _poisson_table(photons: int) -> Tensor:
    """Distribution functions of Poisson(photons * r / 255) for r = 0..255, each shifted by r; float64."""
    rate = torch.arange(256, dtype=torch.float64)[:, None] * photons / 255.0
    longest = math.ceil(photons + 10.0 * math.sqrt(photons)) + 10  # beyond ten standard deviations
    n = torch.arange(longest, dtype=torch.float64)
    log_mass = torch.xlogy(n, rate) - rate - torch.lgamma(n + 1.0)
    cumulative = log_mass.exp().cumsum(dim=1).clamp(max=1.0)
    cumulative[:, -1] = 1.0
    return cumulative + torch.arange(256, dtype=torch.float64)[:, None]


def jpeg(image: Tensor, quality: Sequence[int]) -> Tensor:
    """Write each image as a JPEG file in memory and read it back: libjpeg, 4:2:0 chroma, on the CPU on every device.

    Real-ESRGAN trains with a differentiable imitation of the codec; nothing here needs its gradient.

    Args:
        image: Shape (B, 3, H, W); clipped and rounded to 8 bits first.
        quality: libjpeg quality of each image, 1..100.
    """
    pixels = quantize(image).mul(255.0).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for one, q in zip(pixels, quality, strict=True):
        with io.BytesIO() as file:
            Image.fromarray(one).save(file, format="JPEG", quality=q)
            decoded.append(np.asarray(Image.open(file)))
    result = torch.from_numpy(np.stack(decoded)).to(image.device).permute(0, 3, 1, 2)
    return result.to(image.dtype).div(255.0).contiguous()


def usm_sharpen(image: Tensor, *, radius: int = 50, weight: float = 0.5, threshold: float = 10.0) -> Tensor:
    """Unsharp masking of the ground truth as in Real-ESRGAN: edges are steepened, flat regions left alone.

    With G a Gaussian blur and r = x - G x, the result blends x with clip(x + weight r) by the soft mask
    G [|r| > threshold / 255]. Defaults are those of Real-ESRGAN's training.

    Args:
        image: Shape (B, 3, H, W).
        radius: Size of the blur in pixels; an even number becomes the next odd one. Its standard deviation is
            0.3 ((radius - 1) / 2 - 1) + 0.8, OpenCV's rule, which is 8 at the default.
        weight: Strength of the sharpening.
        threshold: Least difference from the blurred image that counts as an edge, in levels of 0..255.
    """
    size = radius + 1 - radius % 2
    sigma = 0.3 * ((size - 1) * 0.5 - 1.0) + 0.8
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-0.5 * (offset / sigma).square())
    taps = (taps / taps.sum()).to(image)

    def blur(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        planes = reflect_pad(x, size // 2).reshape(b * c, 1, h + size - 1, w + size - 1)
        return F.conv2d(F.conv2d(planes, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)).view(b, c, h, w)

    residual = image - blur(image)
    mask = blur((residual.abs() * 255.0 > threshold).to(image))
    sharp = (image + weight * residual).clamp(0.0, 1.0)
    return mask * sharp + (1.0 - mask) * image
