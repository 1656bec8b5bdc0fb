"""Colour profiles: images are converted to sRGB, in the precision that they have."""

from __future__ import annotations

import struct
from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

IDENTICAL = 2
"""Levels of 8 bits by which a profile may differ from sRGB and still be taken for it: roundings of its tables."""

FROM_SRGB: Final = np.array([
    [0.4360747, 0.3850649, 0.1430804],
    [0.2225045, 0.7168786, 0.0606169],
    [0.0139322, 0.0971045, 0.7141733],
])  # fmt: skip
"""Linear sRGB to XYZ, adapted to D50 by Bradford's matrix as profiles are (ICC.1:2022, Annex E)."""


class ProfileError(ValueError):
    """A colour profile that is damaged, or made for images of another kind."""


def color_space(profile: bytes) -> str:
    """What the numbers of a profile are: `RGB`, `GRAY`, `CMYK` or another name of the standard.

    Raises:
        ProfileError: If it is damaged.
    """
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ValueError, TypeError) as error:
        raise ProfileError("it is damaged") from error


def srgb_profile() -> bytes:
    """A profile of sRGB, the same bytes each time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]  # the date at which it is made


def is_srgb(profile: bytes) -> bool:
    """Whether a profile is sRGB, or grey with the curve of sRGB.

    Raises:
        ProfileError: If it is damaged.
    """
    return color_space(profile) in {"RGB", "GRAY"} and _transform(profile) is None


def checked_space(profile: bytes, mode: str) -> str:
    """As `color_space`, of a profile that is for images of a mode.

    Args:
        profile: The profile.
        mode: `L`, which may have one of colours too, `RGB` or `CMYK`.

    Raises:
        ProfileError: If the profile is damaged, or made for images of another kind.
    """
    space = color_space(profile)
    if mode not in {"RGB": ("RGB", "L"), "GRAY": ("L",), "CMYK": ("CMYK",)}.get(space, ()):
        raise ProfileError(f"it is for {space} and the image is {mode}")
    _transform(profile)
    return space


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Image of eight bits, without alpha, in sRGB.

    Args:
        image: Grey (`L`), `RGB` or `CMYK`.
        profile: Its profile; grey images may have one of colours.

    Returns:
        The image in mode `RGB`, or as it was where its profile is sRGB.

    Raises:
        ProfileError: If the profile is damaged, or made for images of another kind.
    """
    space = checked_space(profile, image.mode)
    transform = _transform(profile)
    if transform is None:
        return image
    done = transform.apply(image.convert("RGB") if space == "RGB" else image)
    assert done is not None
    return done


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Image in mode `LAB` in sRGB."""
    lab = ImageCms.createProfile("LAB")
    done = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert done is not None
    return done


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Conversion from a profile to sRGB; None if that changes nothing."""
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[color_space(profile)]
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileError("it is damaged") from error
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    levels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(levels if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    found = np.asarray(transform.apply(probe), dtype=np.int16)
    change = np.abs(found - np.asarray(probe.convert("RGB"), dtype=np.int16)).max()
    return None if change <= IDENTICAL else transform


def deep_to_srgb(pixels: npt.NDArray[np.float32], profile: bytes) -> npt.NDArray[np.float32]:
    """Pixels of more than eight bits in sRGB, for which Pillow's conversion has no type.

    Linear values are those of the profile's curves, XYZ = [rXYZ gXYZ bXYZ] (r, g, b) (ICC.1:2022, Annex F); colours
    beyond sRGB are clipped.

    Args:
        pixels: Values in [0, 1], shape (H, W, 3); grey has three equal channels.
        profile: Their profile, of curves and primaries.

    Returns:
        Values in [0, 1], shape (H, W, 3).

    Raises:
        ProfileError: If the profile is damaged, or consists of tables instead.
    """
    try:
        tags = _tags(profile)
        if b"A2B0" in tags:
            raise ProfileError("it consists of tables, which are applied to 8 bits alone")
        if b"kTRC" in tags:
            linear = _curve(tags[b"kTRC"], pixels[..., 1])[..., None].repeat(3, axis=-1)
        else:
            curves = (tags[name] for name in (b"rTRC", b"gTRC", b"bTRC"))
            linear = np.stack([_curve(curve, pixels[..., i]) for i, curve in enumerate(curves)], axis=-1)
            primaries = np.stack([_fixed(tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
            linear = linear @ (np.linalg.inv(FROM_SRGB) @ primaries).T.astype(np.float32)
    except (KeyError, struct.error, ValueError, IndexError) as error:
        raise error if isinstance(error, ProfileError) else ProfileError("it is damaged") from error
    linear = linear.clip(0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded.astype(np.float32)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    places = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 100))]
    return {name: profile[start : start + size] for name, start, size in places}


def _fixed(data: bytes) -> npt.NDArray[np.float64]:
    """Numbers of 16 bits before and 16 after the point."""
    return np.frombuffer(data[: len(data) // 4 * 4], dtype=">i4") / 65536


def _curve(tag: bytes, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values of a curve: a gamma, a table, or one of the five functions of ICC.1:2022, Table 68."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        table = np.frombuffer(tag[12 : 12 + 2 * count], dtype=">u2")
        if count == 0:
            return x
        if count == 1:
            return x ** np.float32(table[0] / 256)
        return np.interp(x, np.linspace(0, 1, count), table / 65535).astype(np.float32)
    if tag[:4] != b"para":
        raise ProfileError("it has curves of an unknown kind")
    (kind,) = struct.unpack_from(">H", tag, 8)
    values = _fixed(tag[12:])
    g, a, b, c, d, e, f = {
        0: lambda v: (v[0], 1.0, 0.0, 0.0, -1.0, 0.0, 0.0),
        1: lambda v: (v[0], v[1], v[2], 0.0, -v[2] / v[1], 0.0, 0.0),
        2: lambda v: (v[0], v[1], v[2], 0.0, -v[2] / v[1], v[3], v[3]),
        3: lambda v: (v[0], v[1], v[2], v[3], v[4], 0.0, 0.0),
        4: lambda v: (v[0], v[1], v[2], v[3], v[4], v[5], v[6]),
    }[kind](values)
    above = np.maximum(a * x + b, 0.0) ** g + e
    return np.where(x >= d, above, c * x + f).astype(np.float32)
