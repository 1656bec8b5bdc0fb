"""PiSA-SR's weight file `pisa_sr.pkl`: read, put into a student, written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ctsr_lightning.networks import adapter_file
from ctsr_lightning.networks.adapter_file import AdapterFile, OneStepModel
from ctsr_lightning.networks.lora import adapters_of
from ctsr_lightning.weights.reading import read_file
from ctsr_lightning.weights.search import find_weights

SETS = ("pix", "sem")
"""The adapters for fidelity to the pixels, and those for semantic detail on top of them."""

LISTS = {
    f"default_{group}_{name}": f"unet_lora_{group}_modules_{name}"
    for name in SETS
    for group in ("encoder", "decoder", "others")
}
"""Adapters of the UNet and the entries that list their modules."""

RANKS = tuple(f"lora_rank_unet_{name}" for name in SETS)

ENTRIES = (*LISTS.values(), *RANKS, "state_dict_unet")
"""Entries of the file."""

STEP: dict[str, Any] = {"timestep": 1, "residual": True}

EXPECTED = f"pisa_sr.pkl, with the entries {', '.join(ENTRIES)}"
SETTINGS = (
    "PiSA-SR's weights fit a student on Stable Diffusion 2.1-base with lora: {rank: 4, sets: [pix, sem]} (or "
    "sets: [pix], its faithful half alone), encoder_lora: null, prediction: epsilon, residual: true, timestep: 1."
)


def is_pisa(contents: Any) -> bool:
    """Whether the contents of a file look like PiSA-SR's weights, complete or not."""
    return isinstance(contents, dict) and not contents.keys().isdisjoint(ENTRIES[:-1])


def read_pisa(path: str | Path) -> AdapterFile:
    """Read `pisa_sr.pkl` without executing anything.

    Args:
        path: The file, whatever its name ends in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file, or is damaged.
    """
    return parse_pisa(read_file(find_weights(path), EXPECTED), path)


def parse_pisa(contents: Any, path: str | Path) -> AdapterFile:
    """Make sense of contents that have been read already; see `read_pisa`."""
    if not isinstance(contents, dict) or contents.keys() != set(ENTRIES):
        raise adapter_file.unlike(contents, ENTRIES, EXPECTED, path)
    ranks = {name: f"lora_rank_unet_{name.rpartition('_')[2]}" for name in LISTS}
    adapters = {name: adapter_file.adapter(contents, entry, ranks[name], path) for name, entry in LISTS.items()}
    return AdapterFile(adapters, {}, adapter_file.tensors(contents, "state_dict_unet", path), {})


def load_pisa(student: OneStepModel, path: str | Path) -> None:
    """Give a student the weights in `pisa_sr.pkl`.

    A student with the sets `pix` and `sem` gets both, at full strength each: PiSA-SR's default. One with `pix` alone
    gets that set: its faithful mode, in which λ_sem is 0. Everything is compared before anything is changed.

    Args:
        student: The student, changed in place.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file or does not fit the student; the message lists the first differences.
    """
    fill_pisa(student, read_pisa(path), path)


def fill_pisa(student: OneStepModel, file: AdapterFile, path: str | Path) -> None:
    """Give a student weights that have been read already; see `load_pisa`."""
    carried = [name for name in adapters_of(student.unet) if name in LISTS]
    if carried and all(name.endswith("_pix") for name in carried):
        file = replace(
            file,
            unet_adapters={name: one for name, one in file.unet_adapters.items() if name.endswith("_pix")},
            unet={name: value for name, value in file.unet.items() if "_sem." not in name},
        )
    adapter_file.fill(student, file, adapter_file.step_differs(student, **STEP), SETTINGS, path)


def write_pisa(student: OneStepModel, path: str | Path) -> None:
    """Write a student's two sets of adapters as PiSA-SR publishes its own, in float32.

    Args:
        student: A student with PiSA-SR's adapters, alpha and step, of any rank.
        path: The file; one that is there is replaced.

    Raises:
        ValueError: If the format cannot express this student.
    """
    adapter_file.save(pisa_contents(student), path)


def pisa_contents(student: OneStepModel) -> dict[str, Any]:
    """The entries that `write_pisa` writes; its tensors are the student's own."""
    problems = adapter_file.step_differs(student, **STEP)
    problems += adapter_file.unpublishable("UNet", student.unet, LISTS)
    problems += adapter_file.unpublishable("autoencoder", student.codec.adapted(), [])
    if problems:
        raise adapter_file.refusal("This student cannot be written as pisa_sr.pkl", problems, SETTINGS)
    adapters = adapters_of(student.unet)
    return {
        **{entry: list(adapters[name].modules) for name, entry in LISTS.items()},
        **{f"lora_rank_unet_{name}": adapters[f"default_encoder_{name}"].rank for name in SETS},
        "state_dict_unet": adapter_file.selected(student.unet, LISTS),
    }
