"""Weight files of published one-step restorers: OSEDiff's `osediff.pkl` and PiSA-SR's `pisa_sr.pkl`.

Both are pickled dictionaries: names of adapted modules, ranks, and state dicts of low-rank adapters. Nothing in them is
executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from ctsr_lightning.weights.reading import differences, load_strictly, mismatch_error

ALPHA: Final = 8.0
"""peft's default, which the files do not state but were trained with: at rank 4 the update counts twice."""


@dataclass(frozen=True)
class Adapter:
    """A named low-rank adapter of a network."""

    modules: tuple[str, ...]
    """Names of the adapted modules."""
    rank: int
    """Rank of the update."""
    alpha: float
    """Scale of the update times the rank."""


@dataclass(frozen=True)
class NetworkFormat:
    """Entries of a file that belong to one network."""

    state: str | None
    """Entry of its state dict; None if the file holds nothing of it."""
    sets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Entries of an adapter's modules and of its rank, by the adapter's name."""
    replaced: tuple[str, ...] = ()
    """Beginnings of the names of base weights in the state dict, besides the adapters."""


@dataclass(frozen=True)
class AdapterFormat:
    """A published format."""

    name: str
    """Name of the file."""
    unet: NetworkFormat
    autoencoder: NetworkFormat
    step: Mapping[str, Any]
    """The student's settings of the one step that the weights were trained for."""
    settings: str
    """Sentence about the student that the weights fit, for messages."""
    optional: str | None = None
    """Ending of the names of adapters that a student may leave out."""

    @property
    def states(self) -> tuple[str, ...]:
        """Entries of state dicts."""
        return tuple(part.state for part in (self.unet, self.autoencoder) if part.state is not None)

    @property
    def lists(self) -> tuple[str, ...]:
        """Entries of modules and ranks, which no other format has."""
        pairs = [*self.unet.sets.values(), *self.autoencoder.sets.values()]
        return tuple(dict.fromkeys([modules for modules, _ in pairs] + [rank for _, rank in pairs]))


_GROUPS: Final = ("encoder", "decoder", "others")
_OSEDIFF_STEP: Final = {"prediction": "epsilon", "residual": False, "timestep": 999}
_OSEDIFF_SETTINGS: Final = (
    "OSEDiff's weights fit a student on Stable Diffusion 2.1-base with {}, prediction: epsilon, residual: false, "
    "timestep: 999."
)

OSEDIFF: Final = AdapterFormat(
    name="osediff.pkl",
    unet=NetworkFormat(
        "state_dict_unet",
        {f"default_{group}": (f"unet_lora_{group}_modules", "rank_unet") for group in _GROUPS},
        replaced=("conv_in.base_layer.",),  # trained besides its adapter
    ),
    autoencoder=NetworkFormat("state_dict_vae", {"default_encoder": ("vae_lora_encoder_modules", "rank_vae")}),
    step=_OSEDIFF_STEP,
    settings=_OSEDIFF_SETTINGS.format("lora: {rank: 4} and encoder_lora: {rank: 4}"),
)
MERGED_OSEDIFF: Final = AdapterFormat(  # AdcSR's copy: all weights of both networks
    name="osediff.pkl (merged)",
    unet=NetworkFormat("unet", replaced=("",)),
    autoencoder=NetworkFormat("vae", replaced=("",)),
    step=_OSEDIFF_STEP,
    settings=_OSEDIFF_SETTINGS.format("lora: null and encoder_lora: null, as this copy has the adapters merged"),
)
PISA: Final = AdapterFormat(
    name="pisa_sr.pkl",
    unet=NetworkFormat(
        "state_dict_unet",
        {
            f"default_{group}_{name}": (f"unet_lora_{group}_modules_{name}", f"lora_rank_unet_{name}")
            for name in ("pix", "sem")  # fidelity to the pixels, and semantic detail on top of it
            for group in _GROUPS
        },
    ),
    autoencoder=NetworkFormat(None),
    step={"prediction": "epsilon", "residual": True, "timestep": 1},
    settings=(
        "PiSA-SR's weights fit a student on Stable Diffusion 2.1-base with lora: {rank: 4, sets: [pix, sem]} (or "
        "sets: [pix], its faithful half alone), encoder_lora: null, prediction: epsilon, residual: true, timestep: 1."
    ),
    optional="_sem",
)


def find_format(contents: Any) -> AdapterFormat | None:
    """The format of a file, complete or not; None if it is another file.

    Args:
        contents: Contents of the file.
    """
    keys = contents.keys() if isinstance(contents, dict) else set()
    for known in (OSEDIFF, MERGED_OSEDIFF, PISA):
        if not keys.isdisjoint(known.lists) or keys == set(known.states):
            return known
    return None


def load_one_step_weights(
    contents: Any,
    path: str | Path,
    networks: tuple[nn.Module, nn.Module],
    adapters: tuple[Mapping[str, Adapter], Mapping[str, Adapter]],
    step: Mapping[str, Any],
) -> None:
    """Load the contents of a file into networks that fit them exactly, or change nothing.

    Args:
        contents: Contents of the file, of a format that `find_format` knows.
        path: The file, for messages.
        networks: UNet and autoencoder, changed in place.
        adapters: The adapters that they carry, by name.
        step: The student's settings of the one step.

    Raises:
        ValueError: If entries are missing, or adapters, their modules, ranks or alpha, names or shapes of weights, or
            the step differ; the message lists the first differences.
    """
    known = find_format(contents)
    if known is None or contents.keys() != {*known.lists, *known.states}:
        raise wrong_entries_error(contents, known, path)
    optional = known.optional
    if optional and adapters[0] and not any(name.endswith(optional) for name in adapters[0]):
        kept = {name: entries for name, entries in known.unet.sets.items() if not name.endswith(optional)}
        known = replace(known, unet=replace(known.unet, sets=kept))
    problems = [
        f"{name} is {step[name]} in the student, {value} in the weights' training"
        for name, value in known.step.items()
        if step[name] != value
    ]
    parts = ("UNet", known.unet), ("autoencoder", known.autoencoder)
    for (title, part), carried in zip(parts, adapters, strict=True):
        sets = {name: _adapter(contents, *entries, path) for name, entries in part.sets.items()}
        problems += _adapter_differences(title, sets, carried)
    states: list[tuple[nn.Module, dict[str, Tensor], dict[str, str]]] = []
    for (title, part), network in zip(parts, networks, strict=True):
        state, own = _state(contents, part.state, path), network.state_dict()
        if optional and not any(name.endswith(optional) for name in part.sets):
            state = {name: value for name, value in state.items() if f"{optional}." not in name}
        names = {k: k for k in own if k.startswith(part.replaced) or any(f".{name}." in k for name in part.sets)}
        problems += _prompt_width_differences(state, own)
        problems += [f"{title}: {one}" for one in differences(state, {k: own[k].shape for k in names})]
        states.append((network, state, names))
    if problems:
        raise mismatch_error("weights that fit this student", path, problems, known.settings)
    for network, state, names in states:
        load_strictly(network, state, path, names=names)


def wrong_entries_error(contents: Any, known: AdapterFormat | None, path: str | Path, expected: str = "") -> ValueError:
    """The error for a file that lacks entries or has others.

    Args:
        contents: Contents of the file.
        known: The format that it resembles; None for none.
        path: The file.
        expected: Description of the files that are read, where it resembles none.
    """
    found = describe(contents)
    if known is not None:
        wanted, keys = {*known.lists, *known.states}, set(contents)
        expected = f"{known.name}, with the entries {', '.join((*known.lists, *known.states))}"
        found += "".join(
            f"; {word} {_few(sorted(names, key=str))}"
            for word, names in (("missing", wanted - keys), ("unexpected", keys - wanted))
            if names
        )
    return ValueError(f"Expected {expected}; found in '{path}': {found}. Name the file that belongs here.")


def describe(contents: Any) -> str:
    """Kind, number and first names of a file's contents."""
    if not isinstance(contents, Mapping):
        return f"a {type(contents).__name__}"
    kind = "tensors" if contents and all(isinstance(v, Tensor) for v in contents.values()) else "entries"
    return f"{len(contents)} {kind} ({_few(contents)})"


def _state(contents: Mapping[str, Any], entry: str | None, path: str | Path) -> dict[str, Tensor]:
    """An entry that has to be a state dict of floating-point weights; empty without an entry."""
    state = contents[entry] if entry is not None else {}
    if not isinstance(state, Mapping):
        raise ValueError(  # noqa: TRY004  # the file is wrong, not the call
            f"Expected weights by name as '{entry}' of '{path}', found {describe(state)}. Download the file again."
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else describe(value)
            raise ValueError(
                f"Expected weights in '{entry}' of '{path}', found {kind} as '{name}'. Download the file again."
            )
    return dict(state)


def _adapter(contents: Mapping[str, Any], modules: str, rank: str, path: str | Path) -> Adapter:
    """The adapter whose modules and rank two entries state; repeated names count once."""
    names, number = contents[modules], contents[rank]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"Expected a list of module names as '{modules}' of '{path}', found {describe(names)}. "
            "Download the file again."
        )
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(
            f"Expected a rank, an integer >= 1, as '{rank}' of '{path}', found {number!r}. Download the file again."
        )
    return Adapter(tuple(dict.fromkeys(names)), number, ALPHA)


def _adapter_differences(title: str, wanted: Mapping[str, Adapter], carried: Mapping[str, Adapter]) -> list[str]:
    """Differences between the adapters of a file, without those on no module, and those that a network carries."""
    wanted = {name: one for name, one in wanted.items() if one.modules}
    carried = {name: one for name, one in carried.items() if name.startswith("default_")}  # not stage 2's on this base
    problems = [f"the student's {title} has no adapter {name}" for name in wanted if name not in carried]
    problems += [f"the file has no adapter {name} for the student's {title}" for name in carried if name not in wanted]
    for name in (name for name in wanted if name in carried):
        theirs, ours = wanted[name], carried[name]
        for what, a, b in (("rank", theirs.rank, ours.rank), ("alpha", theirs.alpha, ours.alpha)):
            if a != b:
                problems.append(f"{what} of {name} is {a:g} in the file, {b:g} in the student's {title}")
        only_theirs = [m for m in theirs.modules if m not in set(ours.modules)]
        only_ours = [m for m in ours.modules if m not in set(theirs.modules)]
        if only_theirs or only_ours:
            problems.append(
                f"{name} is on {len(theirs.modules)} modules in the file, on {len(ours.modules)} of the student's "
                f"{title} (file only: {_few(only_theirs) or 'none'}; student only: {_few(only_ours) or 'none'})"
            )
    return problems


def _prompt_width_differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Difference in the width of the prompts: the mark of Stable Diffusion 1.5 against 2.1."""
    pattern = re.compile(r"attn2\.to_k\.(lora_A\..*)?weight$")
    widths = []
    for tensors in (state, own):
        shapes = [v.shape for k, v in tensors.items() if pattern.search(k)]
        widths.append(shapes[0][1] if shapes and len(shapes[0]) == 2 else None)
    theirs, ours = widths
    if theirs == ours or theirs is None or ours is None:
        return []
    known = "Stable Diffusion 2.1 has 1024, 1.5 has 768"
    return [f"the file belongs to a UNet with cross-attention {theirs}, the student's has {ours} ({known})"]


def _few(names: Iterable[Any], limit: int = 3) -> str:
    """The first names, and their number if there are more."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f", … {len(listed)} in all" if len(listed) > limit else "")
