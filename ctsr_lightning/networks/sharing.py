"""One copy of frozen base weights in memory, for every network that is built on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

_ORIGIN: Final = "shared_from"
"""Attribute by which a network keeps the original of its weights alive."""


class Original:
    """A network as it was read, which lends its weights and is never run or changed itself.

    It lives as long as one of the networks that have its weights, and belongs to none of them: it is no submodule, and
    copies of a network keep the same original.

    Args:
        network: The network; it is frozen.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False)
        self._dtypes = [p.dtype for p in network.parameters()]

    def in_its_precision(self) -> bool:
        """Whether no user has converted the weights."""
        return [p.dtype for p in self.network.parameters()] == self._dtypes

    def __deepcopy__(self, memo: dict[int, Any]) -> Original:
        return self


_originals: WeakValueDictionary[Hashable, Original] = WeakValueDictionary()


def share(key: Hashable, load: Callable[[], Network]) -> Network:
    """A network of its own over weights that all networks of the same key share.

    The networks have the frozen `Parameter` objects in common. Modules, modes, hooks and adapters are each
    network's own, so nothing has to be switched between one's turn and another's, and gradient checkpointing, which
    runs forward passes within the backward pass, meets the right adapters whatever else was run meanwhile.

    `to`, `cuda`, `double` and the like change what a Parameter holds, not which object it is: they act on all networks
    with these weights at once, and the weights stay shared. A network that is loaded later finds the weights on the
    device where they are, and reads anew where they have been converted to another precision. Weights come apart, into
    correct copies, only where torch replaces the objects: by a move to a device of another kind of storage (`meta`,
    XLA), by `copy.deepcopy`, and under `torch.__future__.set_overwrite_module_params_on_conversion(True)`. Strategies
    that rearrange weights (FSDP) do not go with sharing; DDP does.

    Args:
        key: Identity of the weights; networks of different architecture or precision need different keys.
        load: Reads the network; called only if nobody has these weights yet.

    Returns:
        The network, in the mode in which `load` gave it; the weights are freed with the last network that has them.
    """
    original = _originals.get(key)
    if original is None or not original.in_its_precision():
        original = _originals[key] = Original(load())
    network = over_the_same_weights(original.network)
    setattr(network, _ORIGIN, original)
    network.register_load_state_dict_pre_hook(_refuse_overwriting)
    return network  # type: ignore[return-value]  # the key stands for the class


def over_the_same_weights(network: Network, *kept: object) -> Network:
    """A copy of a network whose modules are its own and whose parameters and buffers are the network's.

    Args:
        network: The network.
        *kept: Parts that the copy shares as they are.
    """
    return copy.deepcopy(network, {id(part): part for part in (*network.parameters(), *network.buffers(), *kept)})


def part_from_original(module: nn.Module) -> None:
    """Let go of the originals that a module's networks keep alive, for networks that will not be trained.

    Args:
        module: The module, changed in place.
    """
    for child in module.modules():
        vars(child).pop(_ORIGIN, None)


def convert_own(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a module floating-point weights and buffers in a type, and leave to others what they have in another one.

    Args:
        module: The module, changed in place.
        dtype: The type.
    """
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                setattr(child, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
        for name, buffer in list(child.named_buffers(recurse=False)):
            if buffer.is_floating_point() and buffer.dtype != dtype:
                setattr(child, name, buffer.to(dtype))


def shared_weights(module: nn.Module) -> list[str]:
    """Names of a module's parameters that other networks may have, too.

    Args:
        module: The module; networks from `share` may lie anywhere in it.
    """
    names: dict[str, None] = {}  # ordered, without repetition
    for path, child in module.named_modules():
        original = vars(child).get(_ORIGIN)
        if original is not None:
            lent = {id(p) for p in original.network.parameters()}
            prefix = f"{path}." if path else ""
            names.update({prefix + name: None for name, p in child.named_parameters() if id(p) in lent})
    return list(names)


def refuse_shared(network: nn.Module, setting: str) -> None:
    """Refuse to train or overwrite a whole network whose weights others use.

    Args:
        network: The network.
        setting: The setting that would leave its weights alone.

    Raises:
        ValueError: If it has shared weights.
    """
    if shared_weights(network):
        raise ValueError(
            f"Without `{setting}` all weights of this {type(network).__name__} are trained or replaced, but "
            "load_unet(share=True) gives frozen weights that others use, too. Set its `share: false`, or give "
            f"`{setting}`."
        )


def _refuse_overwriting(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Stands before `load_state_dict`: what others use may not be loaded over."""
    overwritten = [name for name in shared_weights(module) if prefix + name in state_dict]
    if overwritten:
        raise ValueError(
            f"Expected weights that this {type(module).__name__} trains, found {len(overwritten)} of its base (first: "
            f"{overwritten[0]}), which it was loaded with `share: true` and others use, too. Set `share: false`."
        )
