"""Image files, 8-bit rounding and the luma channel: the only place that rounds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.images.listing import (
    IMAGE_SUFFIXES as IMAGE_SUFFIXES,
)
from ctsr_lightning.images.listing import (
    list_images as list_images,
)

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class UnreadableImageError(ValueError):
    """A file that has an image's suffix but cannot be decoded."""


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB in [0, 1], shape (3, H, W).

    The EXIF orientation is applied, grey becomes three equal channels, 16 bits keep their precision, an alpha
    channel is composited over white.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file cannot be decoded as an image.
    """
    pixels = torch.from_numpy(read_pixels(path)).permute(2, 0, 1).contiguous()
    return pixels.float().div(255.0) if pixels.dtype == torch.uint8 else pixels


def read_pixels(path: str | Path) -> Pixels:
    """Read an image file as `read_image` does, but as an (H, W, 3) array in the precision of the file.

    Args:
        path: The file.

    Returns:
        uint8 for eight-bit files, float32 in [0, 1] for deeper ones and those with an alpha channel.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file cannot be decoded as an image.
    """
    with _opened(path) as image:
        return _to_rgb(ImageOps.exif_transpose(image))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width that `read_image` will give, from the file's header alone.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the header is not that of an image; damage further on shows only when decoding.
    """
    with _opened(path) as image:
        width, height = image.size
        # The base class's method, because that of PNG decodes the whole image to look for a late chunk.
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
    return (width, height) if turned else (height, width)


def image_kind(path: str | Path) -> Literal["colour", "grey", "transparent"]:
    """Kind of an image file: one channel, colours, or transparent pixels.

    Args:
        path: The file; an alpha channel that is opaque everywhere does not count.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it cannot be decoded as an image.
    """
    with _opened(path) as image:
        if _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] != OPAQUE:
            return "transparent"
        return "grey" if image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16") else "colour"


OPAQUE = 255


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


# EXIF orientations that swap width and height (EXIF 2.3, tag 0x0112).
_QUARTER_TURNS = frozenset({5, 6, 7, 8})


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong inside becomes one kind of error that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected an image file at '{path}', found {'a folder' if path.exists() else 'nothing'}."
        )
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"Cannot read '{path}': it is no image, or damaged. Convert or remove it."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UnreadableImageError(f"Cannot read '{path}' as an image: {error}. Convert or remove the file.") from error


def _to_rgb(image: Image.Image) -> Pixels:
    """Convert any Pillow mode to an (H, W, 3) array, uint8 or float32 in [0, 1]."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image).astype(np.float32) / 65535.0, 0.0, 1.0)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point images have no defined range")
    if _has_alpha(image):
        rgba = np.array(image.convert("RGBA"))
        if rgba[..., 3].min() == OPAQUE:  # opaque everywhere: eight bits are exact
            return np.ascontiguousarray(rgba[..., :3])
        alpha = rgba[..., 3:].astype(np.float32) / 255.0
        blended: npt.NDArray[np.float32] = rgba[..., :3].astype(np.float32) / 255.0 * alpha + (1.0 - alpha)
        return blended
    return np.array(image.convert("RGB"))


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


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert an image in [0, 1] of shape (3, H, W) to an (H, W, 3) uint8 array."""
    return quantize(image.detach().float()).mul(255.0).round().byte().permute(1, 2, 0).cpu().numpy()


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image as an 8-bit file; the suffix chooses the format, folders are made as needed.

    Args:
        path: The file to write.
        image: RGB in [0, 1], shape (3, H, W).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    Image.fromarray(to_uint8(image)).save(path, **options)


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

    OSEDiff was trained on this kernel; torch has it with `antialias` only, its plain bicubic is a = -0.75.

    Args:
        images: Images in [0, 1], shape (B, C, h, w).
        size: Height H and width W.

    Returns:
        Images in [0, 1], shape (B, C, H, W).
    """
    return F.interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0.0, 1.0)


def upsample(lq: Tensor, scale: int) -> Tensor:
    """Enlarge images bicubically, the up(·) that precedes the encoder (paper, Sec. 4.1).

    Args:
        lq: Images in [0, 1], shape (B, 3, h, w).
        scale: Factor; 1 returns the input.

    Returns:
        Images in [0, 1], shape (B, 3, scale * h, scale * w).
    """
    return lq if scale == 1 else resize_bicubic(lq, [scale * side for side in lq.shape[-2:]])


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
