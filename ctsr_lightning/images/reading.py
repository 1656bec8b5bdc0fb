"""Image files read: colours in sRGB, in the precision of the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ctsr_lightning.images.metadata import Metadata, read_metadata, resolution
from ctsr_lightning.images.profiles import (
    ProfileError,
    checked_space,
    deep_to_srgb,
    is_srgb,
    lab_to_srgb,
    srgb_profile,
    to_srgb,
)

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class UnreadableImageError(ValueError):
    """A file that has an image's suffix but cannot be decoded."""


@dataclass(frozen=True)
class Picture:
    """An image file with all that its restoration keeps.

    Args:
        colours: RGB in [0, 1], shape (3, h, w), not composited; grey has three equal channels. Of a result, also levels
            of 8 bits (`to_levels`).
        alpha: In [0, 1], shape (1, h, w); None where the file has none.
        grey: Whether the file has no colours.
        depth: Bits per channel, 8 or 16.
        metadata: EXIF, resolution, profile.
        notes: What could not be read as it is, as sentences without a subject.
    """

    colours: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    depth: Literal[8, 16] = 8
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB in [0, 1], shape (3, H, W).

    Colours are converted to sRGB from the file's profile, the EXIF orientation is applied, grey becomes three equal
    channels, 16 bits keep their precision, an alpha channel is composited over white. Of several frames, the first.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file cannot be decoded as an image.
    """
    return _planes(read_pixels(path))


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
        decoded = _decode(image, Path(path))
    for note in decoded.notes:
        warnings.warn(f"'{path}': {note}.", stacklevel=2)
    if decoded.alpha is None or bool((decoded.alpha == 1.0).all()):  # opaque everywhere: eight bits are exact
        return decoded.colours
    blended: npt.NDArray[np.float32] = _floats(decoded.colours) * decoded.alpha + (1.0 - decoded.alpha)
    return blended


def read_picture(path: str | Path, *, keep_profile: bool = False) -> Picture:
    """Read an image file with what belongs to it beside its colours.

    Args:
        path: The file.
        keep_profile: Leave colours in the profile of the file, which is then the picture's. One that is not for RGB or
            grey, or not for images of the file's kind, is converted nevertheless.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file cannot be decoded as an image.
    """
    said = list[str]()
    with _opened(path, said) as image:
        frames = getattr(image, "n_frames", 1)
        decoded = _decode(image, Path(path), keep_profile=keep_profile)
        try:
            metadata = read_metadata(image, decoded.profile)
        except ValueError as error:
            said.append(f"{error}, which is left out")
            metadata = Metadata(dpi=resolution(image), profile=decoded.profile)
    if frames > 1:
        said.append(f"the first of its {frames} frames is taken")
    return Picture(
        _planes(decoded.colours),
        None if decoded.alpha is None else _planes(decoded.alpha),
        decoded.grey,
        8 if decoded.colours.dtype == np.uint8 else 16,
        metadata,
        (*decoded.notes, *said),
    )


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width that `read_image` will give, from the file's header alone.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the header is not that of an image; damage further on shows only when decoding.
    """
    with _opened(path) as image:
        tags = getattr(image, "tag_v2", None)  # of TIFF, whose size Pillow has turned already
        width, height = image.size if tags is None else (tags[256], tags[257])
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
        grey = _is_grey(image)
        if _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] != OPAQUE:
            return "transparent"
        return "grey" if grey else "colour"


OPAQUE = 255


def _has_alpha(image: Image.Image) -> bool:
    single = image.mode.startswith("I")  # its transparent level, if any, Pillow does not convert
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or ("transparency" in image.info and not single)


def _is_grey(image: Image.Image) -> bool:
    """Whether the file of an image that is not decoded yet has one channel; 16 bits with alpha Pillow opens as RGBA."""
    one = image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16")
    return one or any(word.startswith("LA;") for word in _raw_modes(image))


def _raw_modes(image: Image.Image) -> list[str]:
    """How the pixels lie in the file of an image that is not decoded yet, such as `RGB;16B`."""
    modes = [tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3] for tile in getattr(image, "tile", [])]
    return [mode for mode in modes if isinstance(mode, str)]


# EXIF orientations that swap width and height (EXIF 2.3, tag 0x0112).
_QUARTER_TURNS = frozenset({5, 6, 7, 8})


@contextmanager
def _opened(path: str | Path, said: list[str] | None = None) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong inside becomes one kind of error that names the file.

    Args:
        path: The file.
        said: Where Pillow's warnings go; None leaves them as they are. That of many pixels is not given: too many are
            refused.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "nothing"
        raise FileNotFoundError(f"Expected an image file at '{path}', found {found}.")
    try:
        with warnings.catch_warnings(record=said is not None) as caught:
            if said is not None:
                warnings.simplefilter("always")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"Cannot read '{path}': it is no image, or damaged. Convert or remove it."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        reason = str(error).rstrip(".")
        raise UnreadableImageError(
            f"Cannot read '{path}' as an image: {reason}. Convert or remove the file."
        ) from error
    if said is not None:
        said.extend(dict.fromkeys(str(warning.message) for warning in caught or []))


@dataclass(frozen=True)
class _Decoded:
    """An upright image: colours of shape (H, W, 3), alpha of shape (H, W, 1), and the profile that they are in."""

    colours: Pixels
    alpha: npt.NDArray[np.float32] | None
    grey: bool
    profile: bytes | None
    notes: list[str]


def _decode(image: Image.Image, path: Path, *, keep_profile: bool = False) -> _Decoded:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("floating-point and 32-bit integer images have no defined range")
    notes = list[str]()
    grey, profile = _is_grey(image), image.info.get("icc_profile")
    sixteen = image.mode.startswith("I") or any(";16" in mode for mode in _raw_modes(image))
    white = 4095 if any(mode.startswith("I;12") for mode in _raw_modes(image)) else 65535
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    image = ImageOps.exif_transpose(image)
    base, alpha = _split(image, grey=grey, white=white)
    deep = None
    if sixteen:
        deep = _levels(image, white) if image.mode.startswith("I") else _deep(path, image, orientation)
        if deep is None:
            notes.append("its 16 bits are read as 8")
        else:
            alpha = deep[..., 3:] if deep.shape[-1] == 4 else alpha
            deep = deep[..., :3]
    if image.mode == "LAB":
        profile = None  # that of its colours before they were made Lab
    if profile:
        try:
            base, deep, profile = _managed(base, deep, profile, notes, keep_profile=keep_profile)
        except ProfileError as error:
            notes.append(f"its colour profile cannot be used, {error}; it is read as sRGB")
            profile = None
    colours: Pixels = np.array(base.convert("RGB")) if deep is None else deep
    if grey:
        colours[...] = colours[..., 1:2].copy()
    return _Decoded(colours, alpha, grey, profile or None, notes)


def _split(image: Image.Image, *, grey: bool, white: int) -> tuple[Image.Image, npt.NDArray[np.float32] | None]:
    """Colours of eight bits in mode L, RGB or CMYK, and alpha."""
    if image.mode.startswith("I"):
        return Image.fromarray((_levels(image, white)[..., 0] * 255).round().astype(np.uint8)), None
    if image.mode == "LAB":
        return lab_to_srgb(image), None
    if not _has_alpha(image):
        return image.convert("L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"), None
    rgba = image.convert("RGBA")
    alpha = np.asarray(rgba.getchannel("A"))[..., None].astype(np.float32) / np.float32(OPAQUE)
    return rgba.convert("RGB").convert("L" if grey else "RGB"), alpha


def _managed(
    base: Image.Image, deep: npt.NDArray[np.float32] | None, profile: bytes, notes: list[str], *, keep_profile: bool
) -> tuple[Image.Image, npt.NDArray[np.float32] | None, bytes | None]:
    """Colours in sRGB, or in their profile where that is kept; and the profile that they are in."""
    fits = checked_space(profile, base.mode) == {"L": "GRAY", "RGB": "RGB"}.get(base.mode)
    unchanged = is_srgb(profile)
    if unchanged or (keep_profile and fits):
        return base, deep, profile if fits else None
    if keep_profile:
        notes.append("its colour profile cannot be kept and is converted to sRGB")
    if deep is not None:
        try:
            deep = deep_to_srgb(deep, profile)
        except ProfileError as error:
            notes.append(f"its 16 bits are read as 8, for its colour profile: {error}")
            deep = None
    grey = base.mode == "L"
    return to_srgb(base, profile), deep, None if grey else srgb_profile()


def _levels(image: Image.Image, white: int) -> npt.NDArray[np.float32]:
    """Grey of more than eight bits, shape (H, W, 3)."""
    grey = np.clip(np.asarray(image).astype(np.float32) / np.float32(white), 0.0, 1.0)
    return np.repeat(grey[..., None], 3, axis=2)


def _deep(path: Path, image: Image.Image, orientation: int) -> npt.NDArray[np.float32] | None:
    """Colours of 16 bits, of which Pillow reads the upper eight, and alpha if there is: shape (H, W, 3 or 4).

    None if OpenCV reads other upper halves than Pillow, as from files with premultiplied alpha.
    """
    import cv2  # takes a quarter of a second, which few files need

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns of tags that it does not know
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[-1] not in {3, 4}:
        return None
    channels = [2, 1, 0, 3][: found.shape[-1]]
    levels: npt.NDArray[np.uint16] = found[..., channels].astype(np.uint16)
    upper = np.asarray(image.convert("RGB" if len(channels) == 3 else "RGBA"))
    for upright in (levels, _TURNS.get(orientation, _TURNS[1])(levels)):
        if upright.shape == upper.shape and bool(((upright >> 8) == upper).all()):
            return np.ascontiguousarray(upright).astype(np.float32) / np.float32(65535)
    return None


_TURNS: dict[int, Callable[[npt.NDArray[np.uint16]], npt.NDArray[np.uint16]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""What makes an image of each EXIF orientation upright, for shape (H, W, C)."""


def _floats(pixels: Pixels) -> npt.NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def _planes(pixels: Pixels) -> Tensor:
    """Values in [0, 1], channels first."""
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return planes.float().div(255.0) if planes.dtype == torch.uint8 else planes
