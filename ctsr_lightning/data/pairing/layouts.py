"""Folder layouts of published benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

from ctsr_lightning.images.listing import is_image_name, named_path

LAYOUTS: Final = (("test_LR", "test_HR"), ("test_SR_bicubic", "test_HR"), ("LR", "HR"), ("lq", "gt"))
"""Sub-folders of low-quality images and of ground truth: StableSR's packs (in `test_SR_bicubic` the low-quality images
are enlarged already, so native ones come first), AdcSR's and ResShift's. Capital and small letters are the same."""


def benchmark_folders(root: str | Path) -> tuple[Path | None, Path]:
    """The folders of low-quality images and of ground truth of a benchmark.

    Args:
        root: The folder that holds both.

    Returns:
        The folder of low-quality images, None if there is but ground truth; the folder of ground truth.

    Raises:
        FileNotFoundError: If there is no such folder, or no ground truth in it under one of the names in `LAYOUTS`.
        ValueError: If there is ground truth under several names.
    """
    root = named_path(root)
    found = list(_found(root))
    whole = [(lq, gt) for lq, gt in found if lq is not None]
    folders = whole or found
    if not folders:
        names = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"Expected the folders of a benchmark in '{root}' ({known_layouts()}), found "
            f"{'the folders ' + ', '.join(names[:8]) + (' ...' if names[8:] else '') if names else 'no folder'}. "
            "Rename the folders, or name that of the low-quality images and that of the ground truth one by one."
        )
    truths = sorted({gt.name for _, gt in folders})
    if len(truths) > 1:
        raise ValueError(
            f"Expected one folder of ground truth in '{root}', found {' and '.join(truths)}. Name the folder of the "
            "low-quality images and that of the ground truth one by one."
        )
    return folders[0]


def gt_folder(path: str | Path) -> Path:
    """The folder of ground truth that a path means: the folder itself, or its sub-folder if it is a benchmark's.

    Args:
        path: A folder of images, or one with a layout of `LAYOUTS`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is ground truth under several names.
    """
    folder = named_path(path)
    known = list(_found(folder))
    if not known or any(is_image_name(p.name) and not p.name.startswith(".") and p.is_file() for p in folder.iterdir()):
        return folder
    return benchmark_folders(folder)[1]


def known_layouts() -> str:
    """The layouts for a reader: `test_LR` with `test_HR` and so on."""
    return ", ".join(f"{lq} with {gt}" for lq, gt in LAYOUTS)


def _found(root: Path) -> Iterator[tuple[Path | None, Path]]:
    """Every folder of ground truth with each folder of low-quality images that goes with it."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a folder at '{root}', found {'a file' if root.exists() else 'nothing'}. "
            "Check the path, relative paths start at the current directory."
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    for lq_name, gt_name in LAYOUTS:
        lq: list[Path | None] = [path for path in folders if path.name.lower() == lq_name.lower()]
        gt = [path for path in folders if path.name.lower() == gt_name.lower()]
        yield from product(lq or [None], gt)
