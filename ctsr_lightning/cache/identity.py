"""Which network it was: a name for a module's weights and settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from ctsr_lightning.networks.frozen import Frozen

SAMPLED: Final = 2**16
"""Values of a tensor that are hashed, evenly spread: adapters entirely, and a training that moves a base as well."""
LIBRARIES: Final = frozenset({"torch", "diffusers", "peft", "transformers", "spandrel"})
"""Packages whose modules say everything by their weights; their settings change from version to version."""
NO_MATTER: Final = frozenset({"training", "gradient_checkpointing"})
"""Settings that change no output."""


def identity(module: nn.Module, without: nn.Module | None = None) -> str:
    """Name a network: its class, and a hash of its weights and plain settings, frozen parts included.

    The same weights and settings give the same name on every machine and device. A module that stands in for another
    one carries the other's name as its attribute `stands_for`.

    Args:
        module: The network.
        without: A part of it to leave out.

    Returns:
        Class and 16 hexadecimal digits.
    """
    other = getattr(module, "stands_for", None)
    if isinstance(other, str):
        return other
    digest = hashlib.blake2b(digest_size=8)
    for fact in _facts("", module, without):
        digest.update(fact)
    return f"{type(module).__name__} {digest.hexdigest()}"


def _facts(name: str, module: nn.Module, without: nn.Module | None) -> Iterator[bytes]:
    """All that a module's outputs depend on, piece by piece."""
    if module is without:
        return
    for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield from _numbers(f"{name}.{key}", tensor)
    if type(module).__module__.partition(".")[0] not in LIBRARIES:
        yield from _settings(name, module, nested=True)
    parts = [("network", module.network)] if isinstance(module, Frozen) else list(module.named_children())
    for key, part in parts:
        yield from _facts(f"{name}.{key}", part, without)


def _numbers(name: str, tensor: Tensor) -> Iterator[bytes]:
    values = tensor.detach().reshape(-1)
    values = values[:: max(1, math.ceil(values.numel() / SAMPLED))].cpu()
    values = values.float() if values.is_floating_point() else values.long()
    yield f"{name}{tuple(tensor.shape)}".encode()
    yield values.numpy().tobytes()


def _settings(name: str, owner: object, *, nested: bool) -> Iterator[bytes]:
    """The public plain values of an object; with `nested` also of the objects it holds, such as a schedule."""
    yield f"{name}:{type(owner).__name__}".encode()
    for key, value in sorted(vars(owner).items()):
        if key.startswith("_") or key in NO_MATTER:
            continue
        if _plain(value):
            yield f"{name}.{key}={value!r}".encode()
        elif isinstance(value, Tensor):
            yield from _numbers(f"{name}.{key}", value)
        elif nested and hasattr(value, "__dict__") and not isinstance(value, nn.Module | Path) and not callable(value):
            yield from _settings(f"{name}.{key}", value, nested=False)


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(key) and _plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
