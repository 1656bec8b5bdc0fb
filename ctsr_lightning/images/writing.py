"""Image files written, with all of an image that their format holds."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from ctsr_lightning.images.alpha import over_white
from ctsr_lightning.images.metadata import BMP_MARK, Metadata, result_exif
from ctsr_lightning.images.profiles import color_space, is_srgb
from ctsr_lightning.images.reading import Picture
from ctsr_lightning.images.tensors import to_uint8

LARGEST: Final = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
"""Most pixels a side: of JPEG, what libjpeg writes of the 65,535 that the format has."""

WRITABLE: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of the formats that images are written in."""

JPEG: Final = frozenset({".jpg", ".jpeg"})
TIFF: Final = frozenset({".tif", ".tiff"})
DEEP: Final = TIFF | {".png"}
ALPHA: Final = DEEP | {".webp"}

LONGEST_EXIF = 65533 - 6
"""Bytes of EXIF that fit into one segment of a JPEG file."""


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image as an 8-bit file; the suffix chooses the format, folders are made as needed.

    Args:
        path: The file to write.
        image: RGB in [0, 1], shape (3, H, W).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(image)).save(path, **_quality(path))


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse sizes that a format does not have.

    Args:
        path: The file to write.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ValueError: If a side is longer than the format allows.
    """
    largest = LARGEST.get(path.suffix.lower())
    if largest is not None and max(height, width) > largest:
        raise ValueError(
            f"Expected a result of at most {largest} pixels a side for '{path.name}', found {width}x{height}. "
            "Use --format png."
        )


def write_picture(path: Path, picture: Picture, record: str = "") -> list[str]:
    """Write an image with what belongs to it; the suffix chooses the format.

    Args:
        path: The file to write, in a folder that is there.
        picture: The image; its colours may be levels of 8 bits, as `to_levels` rounds. Grey is written as grey, 16 bits
            and alpha where the format has them.
        record: How it was made, in letters of ASCII; empty leaves that out.

    Returns:
        What the format cannot hold, as sentences without a subject.
    """
    suffix, colours, alpha, depth = path.suffix.lower(), picture.colours, picture.alpha, picture.depth
    notes = list[str]()
    if alpha is not None and suffix not in ALPHA:
        if float(alpha.min()) < 1.0:
            notes.append(f"{suffix[1:]} has no transparency, it is put over white")
            colours = over_white(colours, alpha)
        alpha = None
    if depth > 8 and suffix not in DEEP:
        notes.append(f"{suffix[1:]} has 8 bits, its 16 are rounded")
        depth = 8
    three = suffix == ".webp" or (suffix in TIFF and depth > 8 and alpha is not None)  # no grey, or none that is read
    grey = picture.grey and not three
    profile, metadata = picture.metadata.profile, picture.metadata
    if suffix == ".bmp" and (metadata.exif or metadata.photo or metadata.gps):
        notes.append("bmp has no room for its EXIF")
    if profile is not None and (suffix == ".bmp" or (color_space(profile) == "GRAY") != grey):
        if not is_srgb(profile):
            notes.append(f"{suffix[1:]} has no room for its colour profile")
        profile = None
    metadata = replace(metadata, profile=profile)
    pixels = _pixels(colours, alpha, grey=grey, depth=depth)
    if suffix in TIFF:
        _write_tiff(path, pixels, metadata, record)
    elif suffix == ".png" and depth > 8:
        _write_deep_png(path, pixels, metadata, record)
    else:
        notes += _save(path, pixels, metadata, record)
    return notes


def _pixels(colours: Tensor, alpha: Tensor | None, *, grey: bool, depth: int) -> npt.NDArray[Any]:
    """Whole numbers of shape (H, W, channels): grey or RGB, and alpha."""
    white, dtype = (255.0, np.uint8) if depth == 8 else (65535.0, np.uint16)
    planes = [*(colours[1:2] if grey else colours), *([] if alpha is None else alpha)]
    pixels = np.empty((*colours.shape[-2:], len(planes)), dtype)
    for index, plane in enumerate(planes):  # one by one: of a large picture a copy in float32 is gigabytes
        levels = plane if plane.dtype == torch.uint8 else plane.detach().float().clamp(0.0, 1.0).mul_(white).round_()
        pixels[..., index] = levels.cpu().numpy()
    return pixels


def _quality(path: Path) -> dict[str, Any]:
    return {"quality": 95, "subsampling": 0} if path.suffix.lower() in JPEG else {}


def _save(path: Path, pixels: npt.NDArray[np.uint8], metadata: Metadata, record: str) -> list[str]:
    """Write eight bits by Pillow."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    options, notes = _quality(path), list[str]()
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if path.suffix.lower() == ".bmp":
        with path.open("wb") as file:
            image.save(file, "BMP", **options)
            if record:
                file.write(BMP_MARK + record.encode("ascii"))
        return notes
    exif = result_exif(metadata, image.size, record).tobytes()
    if len(exif) > LONGEST_EXIF and path.suffix.lower() in JPEG:
        notes.append("jpg has no room for its EXIF")
        exif = result_exif(Metadata(), image.size, record).tobytes()
    if metadata.profile:
        options["icc_profile"] = metadata.profile
    image.save(path, exif=exif, **options)
    return notes


def _write_tiff(path: Path, pixels: npt.NDArray[Any], metadata: Metadata, record: str) -> None:
    """Write TIFF of 8 or 16 bits, of which Pillow knows no colours: one strip of deflated differences (TIFF 6.0)."""
    height, width, channels = pixels.shape
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.astype(pixels.dtype.newbyteorder("<")).tobytes(), 6)
    directory = ImageFileDirectory_v2()  # of little-endian order
    directory.update(result_exif(metadata, (width, height), record))
    directory.update({256: width, 257: height, 258: (8 * pixels.itemsize,) * channels, 259: 8, 317: 2})
    directory.update({262: 1 if channels < 3 else 2, 277: channels, 278: height, 339: (1,) * channels})
    if channels in {2, 4}:
        directory[338] = 2  # alpha that colours are not multiplied by
    if metadata.profile:
        directory[34675] = metadata.profile
    directory.update({273: 0, 279: len(strip)})  # the offset counts from the directory's end
    with path.open("wb") as file:
        directory.save(file)
        file.write(strip)


def _write_deep_png(path: Path, pixels: npt.NDArray[np.uint16], metadata: Metadata, record: str) -> None:
    """Write PNG of 16 bits, which Pillow knows for grey without alpha only (PNG, third edition, 11)."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, dtype=np.uint8)  # filter 2: differences to the row above
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    blocks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if metadata.profile:
        blocks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)))
    if metadata.dpi is not None:
        per_metre = (round(dots / 0.0254) for dots in metadata.dpi)
        blocks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    exif = result_exif(metadata, (width, height), record)
    blocks += [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))] if exif else []
    blocks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in blocks:
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
