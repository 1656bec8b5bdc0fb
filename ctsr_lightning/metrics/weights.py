"""Published weight files of the metrics: where they come from, where they are looked for, and how they are read.

Nothing is downloaded unless a caller allows it with `weight_folders(download=True)`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError

import torch
from torch import Tensor, nn

from ctsr_lightning.networks.weight_file import named_tensors, read_file

_TIMEOUT = 10.0  # seconds without an answer
_CHUNK = 1 << 20  # bytes


class MissingWeightsError(FileNotFoundError):
    """A published weight file that is in none of the places it is looked for, and could not be fetched."""


@dataclass(frozen=True)
class WeightFile:
    """A published weight file.

    Args:
        names: Accepted file names; the first is the published one.
        url: Where it is published.
        folder: Its folder below `torch.hub.get_dir()`.
        sha256: Its hash, or as much of the beginning as is published; empty if nothing is.
        note: What it is, for messages.
    """

    names: tuple[str, ...]
    url: str
    folder: str = "checkpoints"
    sha256: str = ""
    note: str = ""

    def place(self) -> Path:
        """The default place of the file, which follows `TORCH_HOME`."""
        return Path(torch.hub.get_dir()) / self.folder / self.names[0]


_TORCHVISION = "https://download.pytorch.org/models"
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_INCEPTION = "inception-2015-12-05-6726825d.pth"
_INCEPTION_HASH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_RN50_HASH = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"

ALEXNET = WeightFile(
    ("alexnet-owt-7be5be79.pth",),
    f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
    sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    note="torchvision's AlexNet, ImageNet",
)
VGG16 = WeightFile(
    ("vgg16-397923af.pth",),
    f"{_TORCHVISION}/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    note="torchvision's VGG-16, ImageNet",
)
SQUEEZENET = WeightFile(
    ("squeezenet1_1-b8a52dc0.pth",),
    f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",
    sha256="b8a52dc0",
    note="torchvision's SqueezeNet 1.1, ImageNet",
)
INCEPTION = WeightFile(  # torch-fidelity's release v0.2.0; the same bytes as the next
    (f"weights-{_INCEPTION}", f"pt_{_INCEPTION}"),
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{_INCEPTION}",
    sha256=_INCEPTION_HASH,
    note="Inception-v3 of the Fréchet distance, torch-fidelity's name",
)
CLEAN_INCEPTION = WeightFile(
    (f"pt_{_INCEPTION}", f"weights-{_INCEPTION}"),
    f"{_PYIQA}/pt_{_INCEPTION}",
    folder="pyiqa",
    sha256=_INCEPTION_HASH,
    note="Inception-v3 of the Fréchet distance, pytorch-fid's name",
)
NIQE_MODEL = WeightFile(
    ("niqe_modelparameters.mat", "niqe_pris_params.npz"),
    f"{_PYIQA}/niqe_modelparameters.mat",
    folder="pyiqa",
    note="NIQE's model of pristine images",
)
MUSIQ_KONIQ = WeightFile(
    ("musiq_koniq_ckpt-e95806b9.pth",),
    f"{_PYIQA}/musiq_koniq_ckpt-e95806b9.pth",
    folder="pyiqa",
    sha256="e95806b9eae5f3814c410f574ba8e552362bd5bc63d758ed5b97860f5d6185aa",
    note="MUSIQ trained on KonIQ-10k",
)
MANIQA_PIPAL = WeightFile(
    ("MANIQA_PIPAL-ae6d356b.pth",),
    f"{_PYIQA}/MANIQA_PIPAL-ae6d356b.pth",
    folder="pyiqa",
    sha256="ae6d356b",
    note="MANIQA trained on PIPAL",
)
CLIP_RN50 = WeightFile(
    ("RN50.pt",), f"{_CLIP}/{_RN50_HASH}/RN50.pt", folder="clip", sha256=_RN50_HASH, note="OpenAI's CLIP, ResNet-50"
)


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


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file (PyTorch or safetensors) without executing anything.

    The wrapper `params` or `state_dict` and the prefix `module.`, which some published files have, are removed.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is damaged, holds code, or is no dictionary of tensors.
    """
    path = Path(path)
    return named_tensors(read_file(path, "a file of weights"), "a file of weights", path)


def fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network, strictly; half precision in the file becomes that of the network.

    Args:
        network: The network.
        state: Its weights.
        path: The file that they are from, for messages.

    Raises:
        ValueError: If names or shapes differ.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"The weights '{path}' do not fit {type(network).__name__}: {' '.join(lines)[:500]} "
            "Use the published file, or one with its names and shapes."
        ) from error


@contextmanager
def building(owner: Any = None, name: str = "", substitute: Any = None) -> Iterator[None]:
    """Within this context another package may build a network, without side effects.

    Its random initialisation, which is overwritten afterwards, leaves our generator as it was, and what it prints
    goes to stderr. Where its constructor would download, `substitute` takes the place of the function that does.

    Args:
        owner: The module whose attribute is replaced for the time being; null to replace nothing.
        name: The attribute.
        substitute: What it is meanwhile.
    """
    original = getattr(owner, name) if owner is not None else None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore", UserWarning)  # such packages call torchvision in ways it has moved on from
        try:
            if owner is not None:
                setattr(owner, name, substitute)
            yield
        finally:
            if owner is not None:
                setattr(owner, name, original)
