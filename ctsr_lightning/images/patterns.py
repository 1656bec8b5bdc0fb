"""Images chosen by patterns of their paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from fnmatch import translate
from pathlib import Path

Patterns = list[str] | str | None
"""Patterns of paths below a folder, as in a shell: `*` stands for any text, slashes too; capitals count."""


def selected(names: Iterable[str], include: Patterns, exclude: Patterns, folder: Path) -> list[int]:
    """Positions of the paths that patterns choose.

    Args:
        names: Paths below the folder.
        include: Patterns to take; None takes all.
        exclude: Patterns to leave out again.
        folder: The folder, for the error.

    Raises:
        ValueError: If a pattern matches nothing, or nothing is left.
    """
    paths = [name.replace(os.sep, "/") for name in names]
    taken, without = (
        [_matching(paths, pattern, kind, folder) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
        for kind, patterns in (("include", include or []), ("exclude", exclude or []))
    )
    left = (set.union(*taken) if taken else set(range(len(paths)))).difference(*without)
    if not left:
        raise ValueError(
            f"Expected images in '{folder}' that `exclude` leaves over, found none of {len(paths)}. Narrow the pattern."
        )
    return sorted(left)


def _matching(paths: list[str], pattern: str, kind: str, folder: Path) -> set[int]:
    match = re.compile(translate(pattern)).match
    found = {number for number, path in enumerate(paths) if match(path)}
    if not found:
        some = ", ".join(f"'{path}'" for path in paths[:3]) + " ..." * bool(paths[3:])
        raise ValueError(
            f"Expected images in '{folder}' whose path below it matches `{kind}` '{pattern}', found none of "
            f"{len(paths)}: {some}. Correct the pattern; * stands for any text, slashes too."
        )
    return found
