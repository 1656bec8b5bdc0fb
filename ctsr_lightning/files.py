"""Files on disk."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20  # bytes


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Within this context a file is written beside its place; it appears there as a whole, or not at all.

    Folders are made as needed. Any number of processes may write one file: the last one stays.

    Args:
        path: The file.

    Returns:
        The file to write, of the same suffix.

    Raises:
        OSError: If it cannot be written; an error of the system names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")  # without its name, which may be as long as can be
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk is reported without a name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        aside.unlink(missing_ok=True)
