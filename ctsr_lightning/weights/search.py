"""Search for weight files: those of this package's trainings, and published ones.

Nothing is downloaded unless a caller allows it with `weight_search_path(download=True)`.
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

from ctsr_lightning.files import written_aside
from ctsr_lightning.weights.published import WeightFile
from ctsr_lightning.weights.shipped import shipped_folder

_TIMEOUT = 10.0  # seconds without a byte
_CHUNK = 1 << 20  # bytes


class MissingWeightsError(FileNotFoundError):
    """A weight file that is in none of the folders searched, and could not be downloaded."""


@dataclass(frozen=True)
class _SearchPath:
    folders: tuple[Path, ...] = ()
    download: bool = False


_search_path: ContextVar[_SearchPath] = ContextVar("weight_search_path", default=_SearchPath())  # noqa: B039  # frozen


@contextmanager
def weight_search_path(*folders: str | Path, download: bool = False) -> Iterator[None]:
    """Search folders for weight files within this context, in this order, before those of an outer context.

    A model is loaded below the folders of its checkpoint, so that it finds the files that it builds on wherever the
    whole has been moved to, and whatever files of the same names the current directory holds.

    Args:
        folders: Relative paths are resolved against them. Published files lie in them directly or as in `TORCH_HOME`.
        download: Download published files that are in none of them into their default places.

    Raises:
        FileNotFoundError: If a folder does not exist.
    """
    roots = tuple(Path(folder).expanduser() for folder in folders)
    absent = [f"'{root}'" for root in roots if not root.is_dir()]
    if absent:
        raise FileNotFoundError(f"Expected folders of weight files, found none at {', '.join(absent)}. Check the path.")
    outer = _search_path.get()
    token = _search_path.set(_SearchPath(tuple(dict.fromkeys((*roots, *outer.folders))), download or outer.download))
    try:
        yield
    finally:
        _search_path.reset(token)


def find_weights(file: str | Path | WeightFile) -> Path:
    """Find a weight file, or download it where that is allowed.

    Args:
        file: A path, relative ones below the folders of `weight_search_path`, the current directory or that of the
            shipped models, such as `nano/stage1/weights.safetensors`; or a published file, in those folders or in its
            default place.

    Raises:
        MissingWeightsError: If it is in none of them, or could not be downloaded; the message names all of them.
    """
    if isinstance(file, WeightFile):
        return find_published(file) or _download_allowed(file)
    wanted = Path(file).expanduser()
    folders = [] if wanted.is_absolute() else list(_search_path.get().folders)
    places = [*(folder / wanted for folder in folders), wanted, shipped_folder().parent / wanted]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        searched = "" if wanted.is_absolute() else f" in {_listed([*folders, Path.cwd()])}"
        raise MissingWeightsError(
            f"Expected a weight file (.safetensors, .ckpt or .pkl) at '{wanted}'{searched}, found "
            f"{'a folder' if any(place.is_dir() for place in places) else 'nothing'}. "
            "Run the training that writes it or download it first, or correct the path."
        )
    return found


def find_published(file: WeightFile) -> Path | None:
    """Find a published weight file on this machine; None if it is nowhere.

    Args:
        file: The file.
    """
    layouts = (Path(), Path(file.folder), Path("hub", file.folder))
    folders = [folder / layout for folder in _search_path.get().folders for layout in layouts]
    places = (folder / name for folder in (*folders, file.place().parent) for name in file.names)
    return next((place for place in places if place.is_file()), None)


def _download_allowed(file: WeightFile) -> Path:
    """Download a published file that is nowhere, if a caller allows it."""
    if not _search_path.get().download:
        raise MissingWeightsError(_missing(file))
    try:
        _download(file)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection open
        raise MissingWeightsError(_missing(file, f"nothing, and downloading it failed: {error}")) from error
    return file.place()


def _missing(file: WeightFile, found: str = "nothing") -> str:
    names = " or ".join(f"'{name}'" for name in file.names)
    offer = "" if _search_path.get().download else " and `--download`"
    return (
        f"Expected the weights {names}{f' ({file.note})' if file.note else ''} in "
        f"{_listed([*_search_path.get().folders, file.place().parent])}, found {found}. "
        f"Download {file.url} into '{file.place().parent}', or point TORCH_HOME to a folder that has "
        f"hub/{file.folder}/{file.names[0]}. Commands also take `--weights FOLDER`{offer}, classes in a configuration "
        "`weights: FILE`."
    )


def _listed(folders: list[Path]) -> str:
    return ", ".join(f"'{folder}'" for folder in folders)


def _download(file: WeightFile) -> None:
    """Fetch a file in one attempt; it appears in its place only when it is whole and has the published hash."""
    with (
        urllib.request.urlopen(file.url, timeout=_TIMEOUT) as source,  # noqa: S310  # our URLs, not the user's
        written_aside(file.place()) as aside,
    ):
        size = int(source.headers.get("Content-Length") or 0)
        with aside.open("wb") as sink:
            digest, written = _copy(source, sink, size, file.place().name)
        if written < size:
            raise OSError(f"the connection ended after {written} of {size} bytes")
        if not digest.startswith(file.sha256):
            raise OSError(f"its SHA-256 is {digest}, published is {file.sha256}")


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
