"""Image files below a folder."""

from __future__ import annotations

from pathlib import Path

from PIL import features

AVIF = {".avif"} if "avif" in features.modules and features.check_module("avif") else set()  # Pillow 11.3 and later
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"} | AVIF)
"""Suffixes of the files that count as images in a folder."""


def list_images(folder: str | Path) -> list[Path]:
    """List the image files below a folder, sorted by path.

    Args:
        folder: The folder; it is searched recursively, hidden files are left out.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no image.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of images at '{root}', found {'a file' if root.exists() else 'nothing'}. "
            "Check the path, relative paths start at the current directory."
        )
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise FileNotFoundError(
            f"Expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) below '{root}', found none. "
            "Put photos there or name another folder."
        )
    return found
