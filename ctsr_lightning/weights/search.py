"""Where weight files are looked for: those of this package's models, and the published ones of metrics.

Nothing is downloaded unless a caller allows it with `weight_folders(download=True)`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

from ctsr_lightning.weights.published import WeightFile

_TIMEOUT = 10.0  # seconds without an answer
_CHUNK = 1 << 20  # bytes


_search_roots: ContextVar[tuple[Path, ...]] = ContextVar("search_roots", default=())


@contextmanager
def searching(*roots: Path) -> Iterator[None]:
    """Within this context relative weight paths are looked up below these folders first, in this order.

    A model and the files that it builds on are found together so, whatever files of the same names the current
    directory holds.
    """
    token = _search_roots.set(roots)
    try:
        yield
    finally:
        _search_roots.reset(token)


def find_weights(path: str | Path) -> Path:
    """Find a weight file: below the folders of `searching`, else as given.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it is in none of them.
    """
    wanted = Path(path).expanduser()
    candidates = [*(root / wanted for root in _search_roots.get() if not wanted.is_absolute()), wanted]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"Expected a weight file (.safetensors, .ckpt or .pkl) at '{wanted}', found "
        f"{'a folder' if wanted.is_dir() else 'nothing'} (current directory: '{Path.cwd()}'). "
        "Run the training that writes it first, or correct the path."
    )


class MissingWeightsError(FileNotFoundError):
    """A published weight file that is in none of the places it is looked for, and could not be fetched."""


@dataclass(frozen=True)
class _Search:
    folders: tuple[Path, ...] = ()
    download: bool = False


_search: ContextVar[_Search] = ContextVar("weight_search", default=_Search())  # noqa: B039  # frozen


@contextmanager
def weight_folders(*folders: str | Path, download: bool = False) -> Iterator[None]:
    """Within this context weight files are also looked up in these folders, before those of an outer context.

    Args:
        folders: The folders; a file may lie directly in them or anywhere below.
        download: Fetch a file that is nowhere into its default place.

    Raises:
        FileNotFoundError: If a folder does not exist.
    """
    roots = tuple(Path(folder).expanduser() for folder in folders)
    absent = [f"'{root}'" for root in roots if not root.is_dir()]
    if absent:
        raise FileNotFoundError(f"Expected folders of weight files, found none at {', '.join(absent)}. Check the path.")
    outer = _search.get()
    token = _search.set(_Search((*roots, *outer.folders), download or outer.download))
    try:
        yield
    finally:
        _search.reset(token)


def find(file: WeightFile) -> Path | None:
    """Where a weight file is: in the folders of `weight_folders`, else in its default place, else nowhere.

    Args:
        file: The file.
    """
    folders = _search.get().folders
    direct = (folder / name for folder in folders for name in file.names)
    below = (hit for folder in folders for name in file.names for hit in sorted(folder.rglob(name)))
    default = (file.place().with_name(name) for name in file.names)
    return next((place for place in chain(direct, below, default) if place.is_file()), None)


def locate(file: WeightFile, explicit: str | Path | None = None) -> Path:
    """Find a weight file, or fetch it where that is allowed.

    Args:
        file: The file.
        explicit: Its path, if the user gave one; nothing else is looked at then.

    Raises:
        MissingWeightsError: If it is nowhere, or could not be fetched; the message says what to do.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise MissingWeightsError(_missing(file, [path], "a folder" if path.is_dir() else "nothing"))
        return path
    found = find(file)
    if found is not None:
        return found
    searched = [*_search.get().folders, file.place().parent]
    if not _search.get().download:
        raise MissingWeightsError(_missing(file, searched))
    try:
        _download(file)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer, too
        raise MissingWeightsError(_missing(file, searched, f"nothing, and downloading it failed: {error}")) from error
    return file.place()


def _missing(file: WeightFile, searched: list[Path], found: str = "nothing") -> str:
    places = ", ".join(f"'{place}'" for place in searched)
    what = " or ".join(f"'{name}'" for name in file.names)
    offer = "" if _search.get().download else " and `--download`"
    return (
        f"Expected the weights {what}{f' ({file.note})' if file.note else ''} in {places}, found {found}. "
        f"Download {file.url} into '{file.place().parent}', or point TORCH_HOME to a folder that has "
        f"hub/{file.folder}/{file.names[0]}. Commands also take `--weights FOLDER`{offer}, classes in a configuration "
        "`weights: FILE`."
    )


def _download(file: WeightFile) -> None:
    """Fetch a file in one attempt; it appears in its place only when it is whole and has the published hash."""
    target = file.place()
    target.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as source:  # noqa: S310  # our URLs, not the user's
        size = int(source.headers.get("Content-Length") or 0)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # another process may fetch, too
        try:
            with os.fdopen(handle, "wb") as sink:
                digest, written = _copy(source, sink, size, target.name)
            if written < size:
                raise OSError(f"the connection ended after {written} of {size} bytes")
            if not digest.startswith(file.sha256):
                raise OSError(f"its SHA-256 is {digest}, published is {file.sha256}")
            Path(name).chmod(0o644)  # temporary files are the user's alone, shared caches are not
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)


def _copy(source: BinaryIO, sink: BinaryIO, size: int, name: str) -> tuple[str, int]:
    """Copy a stream under a progress bar on stderr: its hash and its length."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    digest, written = hashlib.sha256(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=size or None)
        while chunk := source.read(_CHUNK):
            sink.write(chunk)
            digest.update(chunk)
            written += len(chunk)
            progress.update(task, completed=written)
    return digest.hexdigest(), written
