"""Image files: usability, unique names, and decoded pixels in memory."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ctsr_lightning.images import Pixels, UnreadableImageError, image_size, list_images, read_pixels

TRAIN_SAMPLES: Final = (
    "astronaut.png", "brick.png", "camera.png", "grass.png", "gravel.png", "motorcycle_left.png",
    "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip
"""Photographs of scikit-image to train on, 512 to 741 pixels on the long side; grey ones get three equal channels."""
VAL_SAMPLES: Final = ("chelsea.png", "coffee.png")
"""Photographs of scikit-image that are held out."""


@dataclass(frozen=True)
class ImageFile:
    """An image file that can be used."""

    key: str
    """Name, unique in its dataset: the path below its folder, without suffix."""
    path: Path
    """The file."""
    height: int
    """Height in pixels, after the EXIF rotation."""
    width: int
    """Width in pixels, after the EXIF rotation."""


@dataclass
class Skipped:
    """Files left out, with the reason of each; reported once, in one message."""

    total: int = 0
    """Number of files examined."""
    reasons: dict[Path, str] = field(default_factory=dict)
    """Why each file is left out."""

    def message(self, name: str, shown: int = 3) -> str:
        """Say how many files are left out and name the first few.

        Args:
            name: Noun for the files.
            shown: How many files to name.
        """
        named = "; ".join(f"'{path}': {reason}" for path, reason in list(self.reasons.items())[:shown])
        rest = len(self.reasons) - shown
        more = f"; and {rest} more" if rest > 0 else ""
        return f"{len(self.reasons)} of {self.total} {name} are left out: {named}{more}."


class ImageCache:
    """Decoded images, kept in memory while they fit a budget.

    Eight-bit images are kept as eight bits. Worker processes forked later share what is already there.

    Args:
        budget: Bytes to keep at most; 0 keeps nothing.
    """

    def __init__(self, budget: int) -> None:
        self.free = budget
        self._kept: dict[Path, Pixels] = {}

    def pixels(self, path: Path) -> Pixels:
        """Decode an image, shape (H, W, 3): uint8, or float32 in [0, 1] where eight bits do not hold it.

        Raises:
            UnreadableImageError: If the file cannot be decoded.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        pixels = read_pixels(path)
        if pixels.nbytes <= self.free:
            self.free -= pixels.nbytes
            self._kept[path] = pixels
        return pixels

    def fits(self, files: Iterable[ImageFile]) -> bool:
        """Whether these images, at eight bits, fit into what is left of the budget."""
        return sum(3 * f.height * f.width for f in files if f.path not in self._kept) <= self.free


def to_tensor(pixels: Pixels) -> Tensor:
    """Convert pixels (H, W, 3) to RGB in [0, 1], shape (3, H, W).

    Args:
        pixels: uint8, or float32 in [0, 1]; any part of an image.
    """
    planes = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
    return planes.float().div(255.0) if planes.dtype == torch.uint8 else planes


def find_images(sources: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """List the image files of folders and single files with a unique key each.

    Raises:
        FileNotFoundError: If a source does not exist or a folder holds no image.
    """
    folders: list[Path] = []
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        found = [path] if path.is_file() else list_images(path)
        folders += [path.parent if path.is_file() else path] * len(found)
        files += found
    stems = [relative_stem(folder, file) for folder, file in zip(folders, files, strict=True)]
    return list(zip(unique_keys(stems, folders, files), files, strict=True))


def relative_stem(root: Path, path: Path) -> str:
    """The path of a file below its folder, without suffix, with forward slashes."""
    return path.relative_to(root).with_suffix("").as_posix()


def unique_keys(keys: Sequence[str], folders: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """Tell equal keys apart: by the folder's name, then by the file's suffix, then by a number.

    Args:
        keys: The keys, as short as can be.
        folders: The folder that each key is relative to.
        files: The file of each key.
    """
    unique = list(keys)
    for extend in (
        lambda key, i: f"{folders[i].resolve().name}/{key}",
        lambda key, i: f"{key}.{files[i].suffix[1:]}",
        lambda key, i: f"{key}-{i}",
    ):
        count = Counter(unique)
        unique = [extend(key, i) if count[key] > 1 else key for i, key in enumerate(unique)]
    return unique


def usable_images(candidates: Iterable[tuple[str, Path]], least: int, skipped: Skipped) -> list[ImageFile]:
    """Keep the files that have an image's header and are large enough; the others are written down, never enlarged.

    Args:
        candidates: Keys and files.
        least: Least height and width in pixels.
        skipped: Where the files left out are written down.
    """
    usable = []
    for key, path in candidates:
        skipped.total += 1
        try:
            height, width = image_size(path)
        except UnreadableImageError as error:
            skipped.reasons[path] = f"unreadable, {error.__cause__}"
            continue
        if min(height, width) >= least:
            usable.append(ImageFile(key, path, height, width))
        else:
            skipped.reasons[path] = f"{width}x{height} pixels, less than the {least} needed"
    return usable


def decodable(file: ImageFile, cache: ImageCache, skipped: Skipped) -> bool:
    """Whether all of a file can be decoded, not only its header; if it cannot, that is written down.

    Args:
        file: The file.
        cache: Decodes it, and keeps it if there is room.
        skipped: Where the files left out are written down.
    """
    try:
        cache.pixels(file.path)
    except UnreadableImageError as error:
        skipped.reasons[file.path] = f"damaged, {error.__cause__}"
        return False
    return True


def train_samples() -> list[Path]:
    """List the sample photos to train on: eight, half of them grey textures and scenes."""
    return _samples(TRAIN_SAMPLES)


def val_samples() -> list[Path]:
    """List the held-out sample photos, which are never trained on: a cat and a cup of coffee."""
    return _samples(VAL_SAMPLES)


def _samples(names: tuple[str, ...]) -> list[Path]:
    # The package is only located, not imported: its files are all we need.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "Expected the sample photos of scikit-image, which is not installed. "
            'Run `pip install "ctsr-lightning[demo]"`, or name a folder of your own photos.'
        )
    folder = Path(spec.origin).parent / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {', '.join(missing)} in '{folder}', found nothing. This scikit-image comes without them: "
            'run `pip install --force-reinstall "ctsr-lightning[demo]"`, or name a folder of your own photos.'
        )
    return [folder / name for name in names]
