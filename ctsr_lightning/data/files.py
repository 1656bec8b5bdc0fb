"""Image files: usability, unique names, and decoded pixels in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctsr_lightning.images import Pixels, UnreadableImageError, image_size, read_pixels
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
        except (UnreadableImageError, FileNotFoundError) as error:
            skipped.reasons[path] = f"unreadable, {error.__cause__}" if error.__cause__ else absence(path)
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
    except (UnreadableImageError, FileNotFoundError) as error:
        skipped.reasons[file.path] = f"damaged, {error.__cause__}" if error.__cause__ else absence(file.path)
        return False
    return True
