"""Images as tensors: 8-bit rounding, luma, enlargement and padding."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

InterpolationMode = Literal["area", "bilinear", "bicubic"]
"""Modes of torch's `interpolate` without antialiasing; its bicubic kernel has a = -0.75."""


def quantize(image: Tensor) -> Tensor:
    """Round an image to the 256 values of an 8-bit file, staying in [0, 1].

    Args:
        image: RGB in [0, 1], any shape; values outside are clipped.
    """
    return image.clamp(0.0, 1.0).mul(255.0).round().div(255.0)


EIGHT_BIT_TOLERANCE: Final = 5e-6
"""How far a pixel may be from an 8-bit value: far above the rounding of float32, below a third of a 16-bit step."""


def content_key(image: Tensor) -> str:
    """A name for an image by its content alone: a hash of its shape and pixels.

    Images whose values are all those of an 8-bit file, which those that are degraded on the fly are, count by their
    bytes. Others, such as pairs in 16-bit files, count by their values rounded to 16 bits.

    Args:
        image: RGB in [0, 1], shape (3, h, w).

    Returns:
        32 hexadecimal digits.
    """
    values = image.detach().float().cpu().clamp(0.0, 1.0)
    deep = bool((quantize(values) - values).abs().max() > EIGHT_BIT_TOLERANCE)
    levels = 65535 if deep else 255
    pixels = values.mul(levels).round().to(torch.int32).numpy().astype("<u2")
    digest = hashlib.blake2b(f"{levels}/{tuple(image.shape)}/".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def to_levels(image: Tensor) -> Tensor:
    """Round an image to the 256 levels of an 8-bit file.

    Args:
        image: RGB in [0, 1], any shape; values outside are clipped.

    Returns:
        Levels from 0 to 255, uint8, of that shape.
    """
    return image.detach().float().clamp(0.0, 1.0).mul_(255.0).round_().byte()


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert an image in [0, 1] of shape (3, H, W) to an (H, W, 3) uint8 array."""
    return to_levels(image).permute(1, 2, 0).cpu().numpy()


def rgb_to_y(image: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in studio swing, the Y that PSNR-Y and SSIM-Y of the field are taken on.

    Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255, so Y lies in [16/255, 235/255].

    Args:
        image: RGB in [0, 1], shape (..., 3, H, W).

    Returns:
        Y, shape (..., 1, H, W).
    """
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((image * weights).sum(dim=-3, keepdim=True) + 16.0) / 255.0


def image_grid(rows: Iterable[Iterable[Tensor]], *, gap: int = 4) -> Tensor:
    """Lay images of one size per row into one picture, white gaps between, shape (3, H, W).

    Args:
        rows: Rows of images, each (3, h, w) in [0, 1]; all images of the grid have the same size.
        gap: Width of the gaps in pixels.
    """
    table = [[image.detach().float().clamp(0, 1).cpu() for image in row] for row in rows]
    _, h, w = table[0][0].shape
    columns = max(len(row) for row in table)
    canvas = torch.ones(3, len(table) * (h + gap) - gap, columns * (w + gap) - gap)
    for r, row in enumerate(table):
        for c, image in enumerate(row):
            canvas[:, r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w] = image
    return canvas


def resize_bicubic(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images by Pillow's and MATLAB's bicubic kernel (a = -0.5), which widens where images shrink.

    OSEDiff is tested with this kernel, and trained with a random `InterpolationMode`. torch has it with `antialias`
    only, its plain bicubic is a = -0.75.

    Args:
        images: Images in [0, 1], shape (B, C, h, w).
        size: Height H and width W.

    Returns:
        Images in [0, 1], shape (B, C, H, W).
    """
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0.0, 1.0)


def upsample(lq: Tensor, scale: int, mode: InterpolationMode | None = None) -> Tensor:
    """Enlarge images, the up(·) that precedes the encoder (paper, Sec. 4.1).

    Args:
        lq: Images in [0, 1], shape (B, 3, h, w).
        scale: Factor; 1 returns the input.
        mode: Interpolation; None for `resize_bicubic`.

    Returns:
        Images in [0, 1], shape (B, 3, scale * h, scale * w).
    """
    if scale == 1:
        return lq
    size = [scale * side for side in lq.shape[-2:]]
    return resize_bicubic(lq, size) if mode is None else F.interpolate(lq, size, mode=mode).clamp(0.0, 1.0)


def enlarge(lq: Tensor, gt: Tensor, mode: str = "bicubic") -> Tensor:
    """Enlarge low-quality images to the ground truth's size, in float32.

    Args:
        lq: Low-quality images in [0, 1], shape (B, 3, h, w).
        gt: Ground truth, shape (B, 3, H, W).
        mode: `bicubic` or `nearest`.

    Returns:
        Images in [0, 1], shape (B, 3, H, W).
    """
    size = gt.shape[-2:]
    return resize_bicubic(lq.float(), size) if mode == "bicubic" else F.interpolate(lq.float(), size, mode=mode)


def pad_to_multiple(images: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Pad images at the right and below by reflection, or by the last pixel where too few are there to reflect.

    Args:
        images: Shape (B, C, h, w).
        multiple: Divisor of the padded sides.
        least: Least quotient: sides become at least `least * multiple`.
    """
    below, right = (max(least, math.ceil(side / multiple)) * multiple - side for side in images.shape[-2:])
    for x, y in ((right, 0), (0, below)):
        if x or y:
            reflects = x < images.shape[-1] and y < images.shape[-2]
            images = F.pad(images, (0, x, 0, y), mode="reflect" if reflects else "replicate")
    return images
