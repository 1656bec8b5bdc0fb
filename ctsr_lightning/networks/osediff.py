"""OSEDiff's weight file `osediff.pkl`: read, put into a student, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctsr_lightning.networks import adapter_file
from ctsr_lightning.networks.adapter_file import AdapterFile, MergedFile, OneStepModel
from ctsr_lightning.networks.lora import ENCODER_TARGETS, adapters_of
from ctsr_lightning.weights.reading import read_file
from ctsr_lightning.weights.search import find_weights

UNET_LISTS = {
    "default_encoder": "unet_lora_encoder_modules",
    "default_decoder": "unet_lora_decoder_modules",
    "default_others": "unet_lora_others_modules",
}
"""Adapters of the UNet and the entries that list their modules."""

ENTRIES = ("vae_lora_encoder_modules", *UNET_LISTS.values(), "rank_unet", "rank_vae", "state_dict_unet",
  "state_dict_vae")  # fmt: skip
"""Entries of OSEDiff's own file."""

MERGED_ENTRIES = ("vae", "unet")
"""Entries of the copy that AdcSR publishes, in which the adapters are merged into the weights."""

REPLACED = ("conv_in.base_layer.",)
"""OSEDiff trains the UNet's first convolution besides its adapter."""

STEP: dict[str, Any] = {"timestep": 999, "residual": False}

EXPECTED = f"osediff.pkl, with the entries {', '.join(ENTRIES)}, or {' and '.join(MERGED_ENTRIES)} (merged)"
SETTINGS = (
    "OSEDiff's weights fit a student on Stable Diffusion 2.1-base with {adapters}, prediction: epsilon, "
    "residual: false, timestep: 999."
)
ADAPTED = SETTINGS.format(adapters="lora: {rank: 4} and encoder_lora: {rank: 4}")
MERGED = SETTINGS.format(adapters="lora: null and encoder_lora: null, as this copy has the adapters merged")


def is_osediff(contents: Any) -> bool:
    """Whether the contents of a file look like OSEDiff's weights, complete or not."""
    if not isinstance(contents, dict):
        return False
    own = [entry for entry in ENTRIES if not entry.startswith("state_dict")]  # entries that no other file has
    return contents.keys() == set(MERGED_ENTRIES) or not contents.keys().isdisjoint(own)


def read_osediff(path: str | Path) -> AdapterFile | MergedFile:
    """Read `osediff.pkl` without executing anything.

    Two files go by this name. OSEDiff's own holds adapters and the UNet's first convolution; the copy that AdcSR
    publishes holds all weights of UNet and autoencoder, with the adapters merged into them.

    Args:
        path: The file, whatever its name ends in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither of the two, or is damaged.
    """
    return parse_osediff(read_file(find_weights(path), EXPECTED), path)


def parse_osediff(contents: Any, path: str | Path) -> AdapterFile | MergedFile:
    """Make sense of contents that have been read already; see `read_osediff`."""
    keys = contents.keys() if isinstance(contents, dict) else set()
    if keys == set(MERGED_ENTRIES):
        return MergedFile(*(adapter_file.tensors(contents, entry, path) for entry in ("unet", "vae")))
    if keys != set(ENTRIES):
        raise adapter_file.unlike(contents, ENTRIES, EXPECTED, path)
    return AdapterFile(
        {name: adapter_file.adapter(contents, entry, "rank_unet", path) for name, entry in UNET_LISTS.items()},
        {"default_encoder": adapter_file.adapter(contents, "vae_lora_encoder_modules", "rank_vae", path)},
        adapter_file.tensors(contents, "state_dict_unet", path),
        adapter_file.tensors(contents, "state_dict_vae", path),
        REPLACED,
    )


def load_osediff(student: OneStepModel, path: str | Path) -> None:
    """Give a student the weights in `osediff.pkl`.

    OSEDiff's own file fills a student with `lora` and `encoder_lora` and replaces the UNet's first convolution; the
    merged copy fills one without adapters. Everything is compared before anything is changed.

    Args:
        student: The student, changed in place.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file or does not fit the student; the message lists the first differences.
    """
    fill_osediff(student, read_osediff(path), path)


def fill_osediff(student: OneStepModel, file: AdapterFile | MergedFile, path: str | Path) -> None:
    """Give a student weights that have been read already; see `load_osediff`."""
    settings = MERGED if isinstance(file, MergedFile) else ADAPTED
    adapter_file.fill(student, file, adapter_file.step_differs(student, **STEP), settings, path)


def write_osediff(student: OneStepModel, path: str | Path) -> None:
    """Write a student's adapters and first convolution as OSEDiff publishes its own, in float32.

    Args:
        student: A student with OSEDiff's adapters, alpha and step, of any rank.
        path: The file; one that is there is replaced.

    Raises:
        ValueError: If the format cannot express this student.
    """
    adapter_file.save(osediff_contents(student), path)


def osediff_contents(student: OneStepModel) -> dict[str, Any]:
    """The entries that `write_osediff` writes; its tensors are the student's own."""
    unet, autoencoder = student.unet, student.codec.adapted()
    problems = adapter_file.step_differs(student, **STEP)
    problems += adapter_file.unpublishable("UNet", unet, UNET_LISTS)
    problems += adapter_file.unpublishable("autoencoder", autoencoder, ["default_encoder"])
    if problems:
        raise adapter_file.refusal("This student cannot be written as osediff.pkl", problems, ADAPTED)
    adapters, encoder = adapters_of(unet), adapters_of(autoencoder)["default_encoder"]
    return {
        "vae_lora_encoder_modules": [name for name in encoder.modules for _ in range(_times_listed(name))],
        **{entry: list(adapters[name].modules) for name, entry in UNET_LISTS.items()},
        "rank_unet": adapters["default_encoder"].rank,
        "rank_vae": encoder.rank,
        "state_dict_unet": adapter_file.selected(unet, UNET_LISTS, REPLACED),
        "state_dict_vae": adapter_file.selected(autoencoder, ["default_encoder"]),
    }


def _times_listed(module: str) -> int:
    """How often OSEDiff's own file lists a module: 32 modules take 65 places, which readers treat as a set.

    A module is listed once for each target that occurs anywhere in its name, `quant_conv` once for every target.
    """
    targets = [target for target in ENCODER_TARGETS if target != "quant_conv"]
    return len(targets) if module == "quant_conv" else sum(target in module for target in targets)
