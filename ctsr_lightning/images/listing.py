"""Image files below folders, and their names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import features

AVIF = {".avif"} if "avif" in features.modules and features.check_module("avif") else set()  # Pillow 11.3 and later
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"} | AVIF)
"""Suffixes of the files that count as images in a folder."""
Sources = list[str | Path] | str | Path | None
"""Folders and files that a user names."""

SYSTEM_FOLDERS: Final = frozenset(
    {
        "__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
        "network trash folder", "system volume information", "temporary items",
    }
)  # fmt: skip
"""Folders, in small letters, in which archives, network drives and systems keep copies and what was deleted."""


def named_path(path: str | Path) -> Path:
    """The path that a user's text means, with the home folder for `~`.

    Args:
        path: The text.

    Raises:
        ValueError: If it is empty, which is no path: of an unset variable, mostly.
    """
    if isinstance(path, str) and not path.strip():
        raise ValueError(f"Expected a path, found '{path}'. Name one, or set the variable that it was to come from.")
    return Path(path).expanduser()


def list_images(folder: str | Path) -> list[Path]:
    """List the image files below a folder, sorted by path.

    Args:
        folder: The folder; it is searched recursively, see `list_names`.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no image.
        OSError: If a folder in it may not be read.
        ValueError: If the path is empty.
    """
    root = named_path(folder)
    return [root / name for name in list_names(root)]


def list_names(folder: str | Path) -> list[str]:
    """List the image files below a folder as paths relative to it, sorted by path; a million take seconds.

    Hidden files and folders are left out, and folders that systems leave (`SYSTEM_FOLDERS`). Links to folders are
    followed, but every folder is entered once, so that links in a circle end. A link that leads nowhere is listed:
    whoever opens it says so.

    Args:
        folder: The folder; it is searched recursively.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no image.
        OSError: If a folder in it may not be read.
        ValueError: If the path is empty.
    """
    root = named_path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of images at '{root}', found {'a file' if root.exists() else 'nothing'}. "
            "Check the path, relative paths start at the current directory."
        )
    found: list[str] = []
    entered: set[Path] = set()
    waiting = [root]
    while waiting:  # all of a tree before the links in it, so that a link to a part of the tree is not taken for it
        for place, folders, files in os.walk(waiting.pop(0), onerror=_fail):
            within = Path(place)
            entered.add(within.resolve())
            folders[:] = sorted(n for n in folders if _is_shown(n) and (within / n).resolve() not in entered)
            waiting += [within / name for name in folders if (within / name).is_symlink()]
            below = "" if within == root else f"{within.relative_to(root)}{os.sep}"  # texts: a path per file takes time
            found += [below + name for name in files if is_image_name(name) and _is_shown(name)]
        waiting = [link for link in waiting if link.resolve() not in entered]
    if not found:
        raise FileNotFoundError(
            f"Expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) below '{root}', found none. "
            "Put photos there or name another folder."
        )
    return sorted(found, key=lambda name: name.replace(os.sep, "\0"))  # as paths are sorted: part by part


def absence(path: Path) -> str:
    """Reason why a file that was listed cannot be opened."""
    return "a link that leads nowhere" if path.is_symlink() else "no longer there, or no file"


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image."""
    return suffix(name).lower() in IMAGE_SUFFIXES


def _is_shown(name: str) -> bool:
    """Whether a file or folder is the user's, neither hidden nor left by a system."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS


def _fail(error: OSError) -> None:
    raise error


def relative_stem(root: Path, path: Path) -> str:
    """Name of an image: its path below its folder, without suffix, with forward slashes.

    Accented letters are composed (NFC), as some systems write them apart, and bytes that are no text are spelt out.

    Args:
        root: The folder.
        path: The file.
    """
    return stem(str(path.relative_to(root)))


def stem(name: str) -> str:
    """Name of an image from its path below a folder, see `relative_stem`.

    Args:
        name: The path.
    """
    text = name[: len(name) - len(suffix(name))].replace(os.sep, "/")
    return text if text.isascii() else unicodedata.normalize("NFC", text.encode(errors="backslashreplace").decode())


def suffix(name: str) -> str:
    """Suffix of a path, as `Path.suffix` gives it, but quick enough for millions.

    Args:
        name: The path.
    """
    dot = name.rfind(".")
    return name[dot:] if name.rfind(os.sep) + 1 < dot < len(name) - 1 else ""


def unique_keys(keys: Sequence[str], folders: Sequence[Path], suffixes: Sequence[str]) -> list[str]:
    """Tell equal keys apart: by the folder's name, then by the file's suffix, then by a number.

    Args:
        keys: The keys, as short as can be.
        folders: The folder that each key is relative to.
        suffixes: The end of each file's name, from the last dot on.
    """
    unique = list(keys)
    named = {folder: folder.resolve().name for folder in set(folders)}
    for extend in (
        lambda key, i: f"{named[folders[i]]}/{key}",
        lambda key, i: f"{key}{suffixes[i]}",
        lambda key, i: f"{key}-{i}",
    ):
        count = Counter(unique)
        if len(count) == len(unique):
            break
        unique = [extend(key, i) if count[key] > 1 else key for i, key in enumerate(unique)]
    return unique
