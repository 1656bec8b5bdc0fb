"""Image files: usability, unique names, and decoded pixels in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctsr_lightning.images import Pixels, UnreadableImageError, image_size, read_pixels
from ctsr_lightning.images.index import Texts
from ctsr_lightning.images.listing import absence


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


class PhotoFiles(Sequence[ImageFile]):
    """Image files below one folder, as arrays: a million take about 100 MB.

    Args:
        root: The folder.
        names: Paths below it.
        keys: Names, unique in their dataset.
        sizes: Height and width of each in pixels, shape (n, 2).
    """

    def __init__(self, root: Path, names: Sequence[str], keys: Sequence[str], sizes: npt.NDArray[np.int32]) -> None:
        self.root = root
        self.names = names
        self.keys = keys
        self.sizes = sizes

    @property
    def short_sides(self) -> npt.NDArray[np.int32]:
        """The shorter side of each in pixels."""
        return self.sizes.min(axis=1, initial=np.iinfo(np.int32).max)

    def subset(self, positions: Sequence[int]) -> PhotoFiles:
        """Some of the files.

        Args:
            positions: Which ones.
        """
        names, keys = (Texts.of(texts[at] for at in positions) for texts in (self.names, self.keys))
        return PhotoFiles(self.root, names, keys, self.sizes[list(positions)].reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> ImageFile:  # type: ignore[override] # no slices
        height, width = (int(side) for side in self.sizes[index])
        return ImageFile(self.keys[index], self.root / self.names[index], height, width)


NAMED: Final = 3
"""How many of the files that are left out a message names."""


@dataclass
class Skipped:
    """Files left out, with the reason of each; reported once, in one message."""

    total: int = 0
    """Number of files examined."""
    reasons: dict[Path, str] = field(default_factory=dict)
    """Why each file is left out."""
    unnamed: int = 0
    """Number of further files left out."""

    def message(self, name: str, shown: int = NAMED) -> str:
        """Say how many files are left out and name the first few.

        Args:
            name: Noun for the files.
            shown: How many files to name.
        """
        count = len(self.reasons) + self.unnamed
        named = "; ".join(f"'{path}': {reason}" for path, reason in list(self.reasons.items())[:shown])
        rest = count - min(shown, len(self.reasons))
        more = f"; and {rest} more" if rest > 0 else ""
        return f"{count} of {self.total} {name} are left out: {named}{more}."


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
        needed = 0
        for file in files:  # of a large set few are counted
            needed += 0 if file.path in self._kept else 3 * file.height * file.width
            if needed > self.free:
                return False
        return True


def to_tensor(pixels: Pixels) -> Tensor:
    """Convert pixels (H, W, 3) to RGB in [0, 1], shape (3, H, W).

    Args:
        pixels: uint8, or float32 in [0, 1]; any part of an image.
    """
    planes = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
    return planes.float().div(255.0) if planes.dtype == torch.uint8 else planes


def usable_images(
    candidates: Iterable[tuple[str, Path]],
    least: int,
    skipped: Skipped,
    size: Callable[[Path], tuple[int, int]] = image_size,
) -> list[ImageFile]:
    """Keep the files that have an image's header and are large enough; the others are written down.

    Args:
        candidates: Keys and files.
        least: Least height and width in pixels.
        skipped: Where the files left out are written down.
        size: Reads height and width.
    """
    usable = []
    for key, path in candidates:
        skipped.total += 1
        try:
            height, width = size(path)
        except (UnreadableImageError, FileNotFoundError) as error:
            skipped.reasons[path] = f"unreadable, {error.__cause__}" if error.__cause__ else absence(path)
            continue
        if min(height, width) >= least:
            usable.append(ImageFile(key, path, height, width))
        else:
            skipped.reasons[path] = f"{width}x{height} pixels, less than the {least} needed"
    return usable


def usable_photos(photos: PhotoFiles, least: int, skipped: Skipped) -> PhotoFiles:
    """Keep the photos that have an image's header and are large enough; of the others the first few are written down.

    Args:
        photos: The files; sizes are 0 where a header cannot be read.
        least: Least height and width in pixels, at least 1.
        skipped: Where the files left out are written down, or counted.
    """
    short = photos.short_sides
    (out,) = np.nonzero(short < least)
    if not len(out):
        skipped.total += len(photos)
        return photos
    first = [photos[int(at)] for at in out[:NAMED]]
    usable_images([(file.key, file.path) for file in first], least, skipped)
    skipped.total += len(photos) - len(first)
    skipped.unnamed += len(out) - len(first)
    return photos.subset(np.flatnonzero(short >= least).tolist())


def decodable(file: ImageFile, cache: ImageCache, skipped: Skipped) -> bool:
    """Whether all of a file can be decoded, not only its header; if it cannot, that is written down.

    Args:
        file: The file.
        cache: Decodes it, and keeps it if there is room.
        skipped: Where the files left out are written down.
    """
    try:
        cache.pixels(file.path)
    except (UnreadableImageError, FileNotFoundError) as error:
        skipped.reasons[file.path] = f"damaged, {error.__cause__}" if error.__cause__ else absence(file.path)
        return False
    return True
