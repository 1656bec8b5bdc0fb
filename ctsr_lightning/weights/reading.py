"""Reading of weight files, without executing anything in them, and strict loading of state dicts."""

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

PREVIOUS: Final = "previous.ckpt"
"""The checkpoint before the last one, beside it."""
_ENTRIES: Final = ("state_dict", "params")
"""Entries that hold the state dict in the files of some programs."""
_WRAPPERS: Final = ("module.", "_orig_mod.")
"""Prefixes of names by DistributedDataParallel and torch.compile."""
_SHOWN: Final = 5


def read_file(path: Path, expected: str, *, mapped: bool = False) -> Any:
    """Read a file of safetensors or `torch.save`: plain values and tensors, no code.

    Args:
        path: The file.
        expected: Its description, for messages: "a safetensors file".
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
            archive = zipfile.is_zipfile(path)
            if archive and not mapped:
                _check_sums(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archive)
    except FileNotFoundError:
        raise
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError, … depending on where it breaks
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else "it ends early"
        reason = f"{reason.rstrip('.')}."
        if reason.startswith("Weights only load failed"):  # goes on with how to run the file's code all the same
            reason = "it holds more than tensors and plain values, as far as it can be read."
        raise ValueError(
            f"Expected {expected} at '{path}', but it cannot be read safely, and nothing in it was executed: {reason} "
            "It may be cut short, hold code or be of another kind. Get it again, or name another file."
        ) from error


def _check_sums(path: Path) -> None:
    """Compare the checksums in a PyTorch file, which is a ZIP archive, with its parts: torch does not.

    Raises:
        ValueError: If a part is not what was written.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"its part '{damaged}' does not have the checksum that was written with it.")


def named_tensors(contents: Any, expected: str, path: Path) -> dict[str, Tensor]:
    """State dict of a file's contents, without wrappers and prefixes.

    Args:
        contents: Result of `read_file`.
        expected: Description of the file, for messages.
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


def differences(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Differences between a state dict and the one that a module needs; empty if there is none.

    Args:
        state: The state dict.
        shapes: Shapes by name, of all that is needed.
    """
    return [
        *(f"missing {name}" for name in shapes if name not in state),
        *(f"unexpected {name}" for name in state if name not in shapes),
        *(
            f"{name} is {tuple(state[name].shape)} in the file, {tuple(shape)} in the network"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != tuple(shape)
        ),
    ]


def mismatch_error(expected: str, source: str | Path, problems: Sequence[str], remedy: str) -> ValueError:
    """The error for weights that do not fit: the first differences, and the number of the others.

    Args:
        expected: Description of the weights that fit.
        source: The file.
        problems: All differences.
        remedy: Last sentences of the message.
    """
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return ValueError(
        f"Expected {expected} in '{source}', found others: {'; '.join(problems[:_SHOWN])}{more}. {remedy}"
    )


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    names: Mapping[str, str] | None = None,
    expected: str = "",
    remedy: str = "Name the published file that belongs here, or one with its names and shapes.",
    assign: bool = False,
) -> None:
    """Load a state dict whose names and shapes are exactly those of a module, or change nothing.

    Args:
        module: The module; tensors are converted to its precision.
        state: The state dict.
        source: Its file, for the message.
        names: Names in the state dict by the module's names, of all that is loaded; None for the module's own names.
        expected: Description of the weights, for the message.
        remedy: Last sentences of the message.
        assign: Take the tensors themselves, in their precision, instead of copying them: for modules on `meta`.

    Raises:
        ValueError: If names or shapes differ; the message lists the first differences.
    """
    own = module.state_dict()
    keys = {name: name for name in own} if names is None else names
    # files from before PyTorch 0.4.1 lack these counters, which torch then leaves at zero
    keys = {name: key for name, key in keys.items() if key in state or not name.endswith("num_batches_tracked")}
    if problems := differences(state, {key: own[name].shape for name, key in keys.items()}):
        raise mismatch_error(expected or f"the weights of {type(module).__name__}", source, problems, remedy)
    module.load_state_dict({name: state[key] for name, key in keys.items()}, strict=names is None, assign=assign)


def give_own_weights(module: nn.Module) -> None:
    """Replace a module's parameters by copies, so that training or overwriting them changes nobody else.

    Args:
        module: The module, changed in place.
    """
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file or of a Lightning checkpoint, without executing anything.

    Exponential moving averages in a checkpoint take the place of the raw weights.

    Args:
        path: The file.

    Raises:
        MissingWeightsError: If there is no such file.
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
        MissingWeightsError: If there is no such file.
        ValueError: If it is not a Lightning checkpoint, or is damaged.
    """
    found = find_weights(path)
    if found.suffix == ".safetensors":
        raise ValueError(
            f"Expected a Lightning checkpoint at '{found}', found weights alone. Name a checkpoint, a file *.ckpt; new "
            "trainings begin from weights by `weights:` of a network."
        )
    try:
        checkpoint: dict[str, Any] = read_file(found, "a Lightning checkpoint or safetensors file")
    except ValueError as error:
        before = found.with_name(PREVIOUS)
        if found.name == PREVIOUS or not before.is_file():
            raise
        raise ValueError(f"{error} The checkpoint before it is '{before}'.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(
            f"Expected a Lightning checkpoint at '{found}', found a file without a 'state_dict'. Name a checkpoint."
        )
    return checkpoint


def averages(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Moving averages of the EMA callback in a checkpoint, by parameter name; empty without that callback."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.split("{")[0].rsplit(".", maxsplit=1)[-1] == "EMA":
            return dict(state.get("averages", {}))
    return {}


def load_weights(module: nn.Module, path: str | Path, prefix: str = "", *, only_trainable: bool = False) -> None:
    """Load the weights of a training into a module, strictly.

    Args:
        module: The module.
        path: A safetensors file or a Lightning checkpoint.
        prefix: Beginning of the names that are taken, without it: `student.unet.` for a UNet from a stage's checkpoint.
        only_trainable: The file holds only parameters that require a gradient (adapters on a frozen base).

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If names or shapes differ; the message lists the first differences.
    """
    below = f", names below '{prefix}'," if prefix else ""
    load_strictly(
        module,
        {k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)},
        path,
        names={k: k for k, p in module.named_parameters() if p.requires_grad} if only_trainable else None,
        expected=f"the weights of {type(module).__name__}{below}",
        remedy="Use the configuration that the weights were trained with, or another file.",
    )


def read_state_dict(path: Path, expected: str = "a file of weights") -> dict[str, Tensor]:
    """Read the state dict in a weight file (PyTorch or safetensors) without executing anything.

    The wrapper `params` or `state_dict` and the prefixes `module.` and `_orig_mod.` of some files are removed.

    Args:
        path: The file.
        expected: Its description, for messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or is no dictionary of tensors.
    """
    return named_tensors(read_file(path, expected), expected, path)
