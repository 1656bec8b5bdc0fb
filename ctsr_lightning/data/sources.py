"""Folders to train on: weight, what becomes of small photos, and which files are taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctsr_lightning.images.listing import Sources, named_path
from ctsr_lightning.images.patterns import Patterns

MIN_SIDES: Final = ("skip", "enlarge", "pad")
"""What can become of photos with a side below the crop."""


@dataclass(frozen=True)
class PhotoFolder:
    """A folder of photos to train on, with settings of its own.

    Args:
        folder: The folder, searched recursively, or a single file.
        weight: Share of the draws, relative to the other sources; null weighs as much as its number of usable photos,
            so that all photos of sources without a weight come equally often.
        min_side: Photos with a side below the crop: `skip` leaves them out, `enlarge` scales them up (bicubic) until
            the shorter side is the crop's, `pad` reflects them at the right and below, as Real-ESRGAN does.
        include: Patterns of the paths below the folder to take, such as `*Nikon*`; null takes all.
        exclude: Patterns of those to leave out again.
    """

    folder: str | Path
    weight: float | None = None
    min_side: str = "skip"
    include: Patterns = None
    exclude: Patterns = None

    @property
    def path(self) -> Path:
        """The folder or file."""
        return named_path(self.folder)


PhotoSources = list[PhotoFolder | str | Path] | Sources
"""Folders and files of photos, with or without settings; the class comes first, or jsonargparse writes it as text."""


def photo_folders(sources: PhotoSources) -> list[PhotoFolder]:
    """Sources as folders with settings, in the order in which they are named.

    Args:
        sources: Several, one or none.

    Raises:
        ValueError: If a path is empty, a weight not positive, or `min_side` unknown.
    """
    several: Sequence[PhotoFolder | str | Path]
    several = sources if isinstance(sources, list) else [sources] if sources is not None else []
    folders = [source if isinstance(source, PhotoFolder) else PhotoFolder(source) for source in several]
    for folder in folders:  # here and not where they are made, which would drown the message in a parser's
        check_weight(folder.weight, folder.path)
        if folder.min_side not in MIN_SIDES:
            raise ValueError(
                f"Expected `min_side` of '{folder.folder}' to be one of {', '.join(MIN_SIDES)}, found "
                f"'{folder.min_side}'."
            )
    return folders


def check_weight(weight: float | None, name: object) -> None:
    """Refuse a weight that is no share.

    Args:
        weight: The weight, or None.
        name: What it is the weight of.

    Raises:
        ValueError: If it is not a positive number.
    """
    if weight is not None and not (math.isfinite(weight) and weight > 0):
        raise ValueError(
            f"Expected a positive `weight` of '{name}', or null, found {weight}. Leave out what is not to be drawn."
        )
