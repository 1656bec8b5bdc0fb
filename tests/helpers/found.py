"""Photos as the data module finds them."""

from __future__ import annotations

from pathlib import Path

from ctsr_lightning.data.files import ImageCache, PhotoFiles, Skipped
from ctsr_lightning.data.sources import PhotoFolder
from ctsr_lightning.data.splits import Files, find_files
from ctsr_lightning.images.index import SizeIndex


def found_files(*folders: Path | PhotoFolder, least: int = 1, skipped: Skipped | None = None) -> Files:
    """Usable photos of folders, none of them decoded."""
    sources = [folder if isinstance(folder, PhotoFolder) else PhotoFolder(folder) for folder in folders]
    index = SizeIndex(None, print)
    return find_files(sources, [], 4, least, ImageCache(0), skipped or Skipped(), verify=False, index=index)


def found_photos(folder: Path | PhotoFolder, least: int = 1, skipped: Skipped | None = None) -> PhotoFiles:
    """Usable photos of one folder."""
    return found_files(folder, least=least, skipped=skipped).sources[0].photos
