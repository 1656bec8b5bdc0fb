"""The one reader of weight files: safetensors and PyTorch's own, from which nothing is ever executed."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

_ENTRIES: Final = ("state_dict", "params")
"""Entries below which programs put the weights."""
_WRAPPERS: Final = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before names."""
_SHOWN: Final = 5


def read_file(path: Path, expected: str, *, mapped: bool = False) -> Any:
    """Read what safetensors or `torch.save` wrote: plain values and tensors, no code.

    Args:
        path: The file.
        expected: What it should be, for messages: "a safetensors file".
        mapped: Leave the tensors of a PyTorch file on the disk until they are used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TorchScript archive warns before it is refused
            mapped = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError, … depending on where it breaks
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("Weights only load failed"):  # goes on with how to run the file's code all the same
            reason = "it holds more than tensors and plain values, as far as it can be read."
        raise ValueError(
            f"Expected {expected} at '{path}', but it cannot be read safely, and nothing in it was executed: {reason} "
            "It may be cut short, hold code or be of another kind. Get it again, or name another file."
        ) from error


def named_tensors(contents: Any, expected: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without what programs wrap around them.

    Args:
        contents: What `read_file` gave.
        expected: What it should be, for messages.
        path: The file, for messages.

    Raises:
        ValueError: If it holds anything but tensors with names.
    """
    for entry in _ENTRIES:
        if isinstance(contents, dict) and isinstance(contents.get(entry), dict):
            contents = contents[entry]
    named = isinstance(contents, dict) and bool(contents)
    if not named or not all(isinstance(value, Tensor) for value in contents.values()):
        found = (
            ", ".join(map(str, list(contents)[:_SHOWN])) if named else f"{type(contents).__name__} ({contents!r:.40})"
        )
        raise ValueError(
            f"Expected {expected} at '{path}', a dictionary of tensors, found something else: {found}. "
            "Name the file that belongs here."
        )
    return {_bare(str(name)): value for name, value in contents.items()}


def _bare(name: str) -> str:
    while name.startswith(_WRAPPERS):
        for wrapper in _WRAPPERS:
            name = name.removeprefix(wrapper)
    return name


def differences(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> str:
    """What keeps weights from fitting a network, the first of it in words; empty if they fit.

    Args:
        state: The weights.
        shapes: The shape of every weight that the network wants.
    """
    problems = [f"missing {name}" for name in shapes if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in shapes]
    problems += [
        f"{name} is {tuple(state[name].shape)} in the file, {tuple(shape)} in the network"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
