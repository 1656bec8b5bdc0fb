"""What the published files of one-step restorers have in common: pickled dictionaries of low-rank adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.networks.codec import LatentCodec
from ctsr_lightning.networks.lora import Adapter, adapters_of

ALPHA = 8.0
"""peft's default, which the files do not state but were trained with: at rank 4 the update counts twice."""


class OneStepModel(Protocol):
    """What the files need of a student, which itself reads them."""

    unet: UNet2DConditionModel
    codec: LatentCodec


@dataclass(frozen=True)
class AdapterFile:
    """Adapters, and perhaps a few weights of the base, as a file states them."""

    unet_adapters: dict[str, Adapter]
    """The UNet's adapters by name."""
    vae_adapters: dict[str, Adapter]
    """The autoencoder's."""
    unet: dict[str, Tensor]
    """Weights by their names in the UNet."""
    vae: dict[str, Tensor]
    """Weights by their names in the autoencoder."""
    replaced: tuple[str, ...] = ()
    """Beginnings of the names of those weights of the UNet's base that the file replaces."""


@dataclass(frozen=True)
class MergedFile:
    """All weights of a UNet and an autoencoder, with nothing left to adapt."""

    unet: dict[str, Tensor]
    """Weights by their names in the UNet."""
    vae: dict[str, Tensor]
    """Weights by their names in the autoencoder."""


def in_words(contents: Any) -> str:
    """What the contents of a file are."""
    if not isinstance(contents, Mapping):
        return f"a {type(contents).__name__}"
    what = "tensors" if contents and all(isinstance(v, Tensor) for v in contents.values()) else "entries"
    return f"{len(contents)} {what} ({_few(contents)})"


def unlike(contents: Any, entries: Iterable[str], expected: str, path: str | Path) -> ValueError:
    """The error for a file that lacks entries or has others.

    Args:
        contents: What was read.
        entries: What a complete file has.
        expected: What should be there.
        path: The file.
    """
    found, wanted = in_words(contents), set(entries)
    keys = set(contents) if isinstance(contents, Mapping) else set()
    if keys & wanted:
        found += "".join(
            f"; {word} {_few(sorted(names, key=str))}"
            for word, names in (("missing", wanted - keys), ("unexpected", keys - wanted))
            if names
        )
    return ValueError(f"Expected {expected}; found in '{path}': {found}. Name the file that belongs here.")


def tensors(contents: Mapping[str, Any], entry: str, path: str | Path) -> dict[str, Tensor]:
    """An entry of a file that has to be a state dict of floating-point weights.

    Args:
        contents: What was read.
        entry: The entry.
        path: The file, for the error.

    Raises:
        ValueError: If it is anything else.
    """
    state = contents[entry]
    if not isinstance(state, Mapping):
        found = in_words(state)
        raise ValueError(f"Expected weights by name as '{entry}' of '{path}', found {found}.")  # noqa: TRY004
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else in_words(value)
            raise ValueError(f"Expected weights in '{entry}' of '{path}', found {kind} as '{name}'.")
    return dict(state)


def adapter(contents: Mapping[str, Any], modules: str, rank: str, path: str | Path) -> Adapter:
    """An adapter from the entries that list its modules and state its rank.

    Args:
        contents: What was read.
        modules: The entry with the names of the modules; a name may occur more than once.
        rank: The entry with the rank.
        path: The file, for the error.

    Raises:
        ValueError: If they are no list of names and no positive integer.
    """
    names, number = contents[modules], contents[rank]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"Expected a list of module names as '{modules}' of '{path}', found {in_words(names)}.")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"Expected a rank, an integer >= 1, as '{rank}' of '{path}', found {number!r}.")
    return Adapter(tuple(dict.fromkeys(names)), number, ALPHA)


def step_differs(student: OneStepModel, *, timestep: int, residual: bool) -> list[str]:
    """In what a student's one step is not the one that weights were trained for.

    Args:
        student: The student.
        timestep: Where the step starts.
        residual: Whether it subtracts the UNet's answer.
    """
    wanted = {"prediction": "epsilon", "residual": residual, "timestep": timestep}
    return [
        f"{name} is {getattr(student, name)} in the student, {value} in the weights' training"
        for name, value in wanted.items()
        if getattr(student, name) != value
    ]


def fill(
    student: OneStepModel, file: AdapterFile | MergedFile, problems: list[str], settings: str, path: str | Path
) -> None:
    """Put the weights of a file into a student that fits them exactly, or change nothing.

    Args:
        student: The student, changed in place.
        file: The weights.
        problems: What is known not to fit already.
        settings: What the weights fit, in words, for the error.
        path: Where they were read from, for the error.

    Raises:
        ValueError: If adapters, their modules, ranks or alpha, or names or shapes of weights differ.
    """
    unet, vae = student.unet, student.codec.adapted()
    if isinstance(file, AdapterFile):
        unet_adapters, vae_adapters = file.unet_adapters, file.vae_adapters
        unet_state, vae_state = selected(unet, unet_adapters, file.replaced), selected(vae, vae_adapters)
    else:
        unet_adapters, vae_adapters = {}, {}
        unet_state, vae_state = unet.state_dict(), vae.state_dict()
    problems = [
        *problems,
        *_compare_adapters("UNet", unet, unet_adapters),
        *_compare_adapters("autoencoder", vae, vae_adapters),
        *_other_prompts(unet, file.unet),
        *_compare_states("UNet", file.unet, unet_state),
        *_compare_states("autoencoder", file.vae, vae_state),
    ]
    if problems:
        raise refusal(f"The weights '{path}' do not fit this student", problems, settings)
    with torch.no_grad():
        for state, target in ((file.unet, unet_state), (file.vae, vae_state)):
            for name, value in state.items():
                target[name].copy_(value)


def selected(module: nn.Module, adapters: Iterable[str], replaced: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A network's own tensors of these adapters, and those whose names begin with one of `replaced`, in its order."""
    parts = tuple(f".{name}." for name in adapters)
    return {k: v for k, v in module.state_dict().items() if k.startswith(replaced) or any(p in k for p in parts)}


def unpublishable(part: str, module: nn.Module, names: Iterable[str]) -> list[str]:
    """Why a network's adapters cannot be published under these names; formats do not state alpha.

    Args:
        part: What to call the network.
        module: The network.
        names: All adapters that the format has for it.
    """
    carried, wanted = _layout(module), list(names)
    problems = [f"the student's {part} has no adapter {name}" for name in wanted if name not in carried]
    problems += [f"the format has no place for adapter {name} of the {part}" for name in carried if name not in wanted]
    return problems + [
        f"alpha of {name} is {one.alpha:g} in the student's {part}, readers of the file take {ALPHA:g}"
        for name, one in carried.items()
        if one.alpha != ALPHA
    ]


def refusal(what: str, problems: list[str], settings: str) -> ValueError:
    """The error that lists the first differences and counts the rest."""
    shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
    return ValueError(f"{what}: {shown}. {settings}")


def save(contents: dict[str, Any], path: str | Path) -> None:
    """Write a file of adapters: plain values, and tensors as float32 on the CPU.

    Args:
        contents: State dicts, lists and numbers.
        path: The file; one that is there is replaced.
    """
    plain = {
        key: {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in contents.items()
    }
    torch.save(plain, path)


def _few(names: Iterable[Any], limit: int = 3) -> str:
    """The first names, and how many there are if there are more."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f", … {len(listed)} in all" if len(listed) > limit else "")


def _layout(module: nn.Module) -> dict[str, Adapter]:
    """The adapters of a network under the layout's names; others, of another owner of the same base, are left out."""
    return {name: one for name, one in adapters_of(module).items() if name.startswith("default_")}


def _compare_adapters(part: str, module: nn.Module, wanted: dict[str, Adapter]) -> list[str]:
    """Differences between the adapters of a file, those on no module left out, and those that a network carries."""
    wanted = {name: one for name, one in wanted.items() if one.modules}
    carried = _layout(module)
    problems = [f"the student's {part} has no adapter {name}" for name in wanted if name not in carried]
    problems += [f"the file has no adapter {name} for the student's {part}" for name in carried if name not in wanted]
    for name in (name for name in wanted if name in carried):
        theirs, ours = wanted[name], carried[name]
        for what, a, b in (("rank", theirs.rank, ours.rank), ("alpha", theirs.alpha, ours.alpha)):
            if a != b:
                problems.append(f"{what} of {name} is {a:g} in the file, {b:g} in the student's {part}")
        only_theirs = [m for m in theirs.modules if m not in set(ours.modules)]
        only_ours = [m for m in ours.modules if m not in set(theirs.modules)]
        if only_theirs or only_ours:
            problems.append(
                f"{name} is on {len(theirs.modules)} modules in the file, on {len(ours.modules)} of the student's "
                f"{part} (file only: {_few(only_theirs) or 'none'}; student only: {_few(only_ours) or 'none'})"
            )
    return problems


def _other_prompts(unet: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Whether the file's UNet attends to prompts of another width: the mark of Stable Diffusion 1.5 against 2.1."""
    pattern = re.compile(r"attn2\.to_k\.(lora_A\..*)?weight$")
    widths = []
    for tensors_by_name in (state, unet.state_dict()):
        shapes = [v.shape for k, v in tensors_by_name.items() if pattern.search(k)]
        widths.append(shapes[0][1] if shapes and len(shapes[0]) == 2 else None)
    theirs, ours = widths
    if theirs == ours or theirs is None or ours is None:
        return []
    known = "Stable Diffusion 2.1 has 1024, 1.5 has 768"
    return [f"the file belongs to a UNet with cross-attention {theirs}, the student's has {ours} ({known})"]


def _compare_states(part: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Differences in names and shapes."""
    problems = [f"missing in the file {k} ({part})" for k in wanted if k not in state]
    problems += [f"not in the student's {part} {k}" for k in state if k not in wanted]
    problems += [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(v.shape)} in the student's {part}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    return problems
