"""The one reader of weight files: safetensors and PyTorch's own, from which nothing is ever executed."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ctsr_lightning.weights.search import find_weights

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


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file or of a Lightning checkpoint, without executing anything.

    A checkpoint that carries an exponential moving average answers with the averages in place of the raw weights.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is neither of the two formats.
    """
    found = find_weights(path)
    if found.suffix == ".safetensors":
        return named_tensors(read_file(found, "a safetensors file"), "a safetensors file", found)
    checkpoint = read_checkpoint(found)
    state: dict[str, Tensor] = dict(checkpoint["state_dict"])
    state.update(averages(checkpoint))
    return state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint with `weights_only=True`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Lightning checkpoint, or is damaged.
    """
    found = find_weights(path)
    checkpoint: dict[str, Any] = read_file(found, "a Lightning checkpoint or safetensors file")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"Expected a Lightning checkpoint at '{found}', found a file without a 'state_dict'.")
    return checkpoint


def averages(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The moving averages that the EMA callback left in a checkpoint, by parameter name; empty without one."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.split("{")[0].rsplit(".", maxsplit=1)[-1] == "EMA":
            return dict(state.get("averages", {}))
    return {}


def load_weights(module: nn.Module, path: str | Path, prefix: str = "", *, only_trainable: bool = False) -> None:
    """Load weights into a module, strictly.

    Args:
        module: The module to fill.
        path: A safetensors file or a Lightning checkpoint.
        prefix: Keys below this prefix are taken, without it: `student.unet.` fills a UNet from a stage's checkpoint.
        only_trainable: The file holds only those weights that require a gradient (adapters on a frozen base).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If names or shapes differ; the message lists the first differences.
    """
    state = {k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)}
    wanted = {k: v.shape for k, v in module.state_dict().items()}
    if only_trainable:
        names = {k for k, p in module.named_parameters() if p.requires_grad}
        wanted = {k: s for k, s in wanted.items() if k in names}
    if problems := differences(state, wanted):
        raise ValueError(
            f"The weights '{path}' (keys below '{prefix}') do not fit {type(module).__name__}: {problems}. "
            "Use the configuration that the weights were trained with, or another file."
        )
    module.load_state_dict(state, strict=not only_trainable)


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
