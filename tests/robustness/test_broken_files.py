"""Pillow's own collection of odd and broken files: each is restored or named, and none stops the others.

Its folder is `Tests/images` of Pillow's source distribution; CTSR_BROKEN_FILES names it, else it lies in `../shared`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ctsr_lightning.commands.upscale import upscale
from ctsr_lightning.data.files import ImageCache, Skipped, decodable, usable_images
from ctsr_lightning.images import IMAGE_SUFFIXES, UnreadableImageError, image_kind, image_size, read_pixels
from ctsr_lightning.images.listing import list_images, relative_stem
from helpers.reference import SHARED

FOLDER = Path(os.environ.get("CTSR_BROKEN_FILES", SHARED / "pillow_images"))
LARGEST = 400_000
"""Pixels of an image that is decoded; larger ones are looked at by their header alone."""
RESTORED = 3_000
"""Pixels of an image that is restored."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="CTSR_BROKEN_FILES names no folder of Pillow's Tests/images"),
    pytest.mark.filterwarnings("ignore"),  # what Pillow has to say of its own files
]


def files() -> list[Path]:
    """Every file of the collection, whatever its suffix."""
    return sorted(path for path in FOLDER.rglob("*") if path.is_file())


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """Why a file is not read; None if it is."""
    try:
        read(path)
    except UnreadableImageError as error:
        return str(error)
    return None


def small(path: Path) -> bool:
    return refusal(image_size, path) is not None or math.prod(image_size(path)) <= LARGEST


def test_every_file_is_read_or_refused_by_name() -> None:
    found = {
        (path, read.__name__): refusal(read, path)
        for path in filter(small, files())
        for read in (image_size, image_kind, read_pixels)
    }
    refused = {path: reason for (path, _), reason in found.items() if reason is not None}
    assert all(str(path) in reason for path, reason in refused.items())
    assert 0 < len(refused) < len(found) / 3


def test_a_training_leaves_out_what_cannot_be_read() -> None:
    skipped = Skipped()
    found = [(key, path) for key, path in ((relative_stem(FOLDER, p), p) for p in list_images(FOLDER)) if small(path)]
    usable = [file for file in usable_images(found, 1, skipped) if decodable(file, ImageCache(0), skipped)]
    assert len(usable) + len(skipped.reasons) == len(found) == skipped.total
    assert usable


@pytest.mark.usefixtures("_toy")
def test_every_file_of_a_folder_is_restored_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, path in enumerate(files()):
        unread = refusal(image_size, path) is not None
        little = path.stat().st_size < 10**6 if unread else math.prod(image_size(path)) <= RESTORED
        if little and path.suffix.lower() in IMAGE_SUFFIXES:
            shutil.copy(path, tmp_path / f"{place}{path.suffix}")
    (tmp_path / "out").mkdir()
    assert upscale(str(tmp_path), str(tmp_path / "out"), device="cpu") == 1
    said = capsys.readouterr().err
    restored = {path.stem for path in (tmp_path / "out").rglob("*.png")}
    assert restored
    for path in tmp_path.iterdir():
        assert path.is_dir() or path.stem in restored or path.name in said, path.name
    for result in (tmp_path / "out").rglob("*.png"):
        with Image.open(result) as image:
            image.load()
