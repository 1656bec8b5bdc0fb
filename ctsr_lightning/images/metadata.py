"""What an image file says beside its pixels: EXIF, resolution, colour profile; and how a result was made."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

RECORD_TAG: Final = ExifTags.Base.ProcessingSoftware.value
"""EXIF's tag for the software that made a file from another: how a result was made, in every format that has EXIF."""

LAYOUT: Final = frozenset({
    *range(254, 260), *range(262, 267), 273, 274, *range(277, 282), 284, *range(288, 294), 301, *range(317, 326),
    *range(330, 348), *range(512, 533), 559, 700, 33723, 34377, 34675, 37724, RECORD_TAG,
})  # fmt: skip
"""Tags that describe a file's pixels (TIFF 6.0) or embed other blocks, not the photograph; orientation is applied."""

SIZE: Final = {ExifTags.Base.ExifImageWidth.value: 0, ExifTags.Base.ExifImageHeight.value: 1}
INTEROP, MAKER_NOTE = 0xA005, 0x927C

UNREADABLE: Final = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, OverflowError, struct.error)
"""What Pillow raises for damaged blocks of metadata."""


@dataclass(frozen=True)
class Metadata:
    """What goes from a photograph to its restoration beside colours.

    Args:
        exif: Tags of EXIF's first directory, without those of the file's layout.
        photo: Tags of its directory of the exposure.
        gps: Tags of its directory of the place.
        dpi: Pixels per inch, across and down.
        profile: The colour profile that the pixels are in; None for sRGB that is not said to be it.
    """

    exif: Mapping[int, Any] = field(default_factory=dict)
    photo: Mapping[int, Any] = field(default_factory=dict)
    gps: Mapping[int, Any] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    profile: bytes | None = None


def read_metadata(image: Image.Image, profile: bytes | None) -> Metadata:
    """Take the metadata of an open image file.

    Args:
        image: The image, as opened.
        profile: The profile that goes with its pixels as they are read.

    Raises:
        ValueError: If EXIF is damaged.
    """
    try:
        exif = image.getexif()
        first, photo, gps = dict(exif), exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    except UNREADABLE as error:
        raise ValueError(f"damaged EXIF: {error}") from error
    pointers = {ExifTags.IFD.Exif.value, ExifTags.IFD.GPSInfo.value}
    return Metadata(
        _writable({tag: value for tag, value in first.items() if tag not in LAYOUT | pointers}),
        _writable({tag: value for tag, value in photo.items() if tag != INTEROP}),
        _writable(gps),
        resolution(image),
        profile,
    )


def resolution(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch that an image file states, across and down."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except UNREADABLE:
        return None
    # 1 is what Pillow takes for TIFF that does not say it; the comparison is also false for NaN.
    return (across, down) if 1 < across < 1e6 and 1 < down < 1e6 else None


def result_exif(metadata: Metadata, size: tuple[int, int], record: str) -> Image.Exif:
    """EXIF of a restoration: that of the photograph, with the new size and how it was made.

    Args:
        metadata: The photograph's.
        size: Width and height of the result.
        record: How it was made; empty leaves that out.
    """
    exif = Image.Exif()
    exif.update(metadata.exif)
    if metadata.dpi is not None:
        exif.update({ExifTags.Base.XResolution: metadata.dpi[0], ExifTags.Base.YResolution: metadata.dpi[1]})
        exif[ExifTags.Base.ResolutionUnit] = 2  # inches
    if record:
        exif[RECORD_TAG] = record
    if metadata.photo:
        sizes = {tag: size[i] for tag, i in SIZE.items() if tag in metadata.photo}
        exif[ExifTags.IFD.Exif] = {**metadata.photo, **sizes}
    if metadata.gps:
        exif[ExifTags.IFD.GPSInfo] = dict(metadata.gps)
    return exif


def read_record(path: Path) -> str | None:
    """How a result was made, as its file says; None for files that do not say it, and for what is no image.

    Args:
        path: The file.
    """
    try:
        if path.suffix.lower() == ".bmp":
            end = path.read_bytes()[-1024:].partition(BMP_MARK)[2]
            return end.decode("ascii", "replace") or None
        with Image.open(path) as image:
            # The base class's method, because that of PNG decodes the whole image to look for a late block.
            found = Image.Image.getexif(image).get(RECORD_TAG)
    except (*UNREADABLE, Image.DecompressionBombError):
        return None
    return str(found) if found else None


BMP_MARK: Final = b"\nctsr: "
"""What precedes the record after the pixels of a BMP file, which has no metadata."""


def _writable(tags: Mapping[int, Any]) -> dict[int, Any]:
    """The tags whose values can be written again; files have some that cannot."""
    return {tag: value for tag, value in tags.items() if _can_write(tag, value)}


def _can_write(tag: int, value: Any) -> bool:
    directory = ImageFileDirectory_v2()
    try:
        directory[tag] = value
        directory.tobytes()
    except (*UNREADABLE, AttributeError, ArithmeticError):
        return False
    return True
