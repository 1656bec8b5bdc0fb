"""The six trainings from photographs to both stages of CTSR: `make nano` runs all, `make demo` the last two."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ctsr_lightning.inference.devices import computes_bfloat16, describe_device, torch_device
from ctsr_lightning.inference.settings import TrainingPrecision

WEIGHTS: Final = "weights.safetensors"
"""Weights of a complete training, in its folder."""
TRAINING: Final = "training.json"
"""Duration and device of a training, beside its weights."""
HELD_OUT: Final = 6
"""Photographs held out of the user's own, where none to validate on are named."""


class Link(NamedTuple):
    """One training of the chain."""

    name: str
    """Name of its configuration, which holds its full length, and of its folder."""
    text: str
    """Description for the terminal."""
    fine: bool = False
    """Whether it computes in float32 in any case, as bfloat16's 8 bits would limit its accuracy."""


CHAIN: Final = (
    Link("codec", "autoencoder: photographs to latents and back", fine=True),
    Link("prior", "diffusion prior of clean photographs"),
    Link("fidelity_teacher", "T_f, faithful: residual shift"),
    Link("realness_teacher", "T_r, realistic: one-step distillation"),
    Link("stage1", "stage 1: two teachers, one student"),
    Link("stage2", "stage 2: the velocity field from realness to fidelity"),
)
"""The trainings in order; each starts from the weights of those before it."""


class Length(NamedTuple):
    """Length of one training: optimizer steps, and validations on the way, the last at its end."""

    steps: int
    validations: int


def remarks(page: Path) -> list[str]:
    """What a person has written about the figures of a page, in STEM_reading.md beside it; empty without."""
    file = page.with_name(f"{page.stem}_reading.md")
    return [file.read_text(encoding="utf-8").strip()] if file.is_file() else []


def configured_steps(configs: Path, link: Link) -> int:
    """Optimizer steps of a training at full length, as its configuration has them."""
    settings = yaml.safe_load((configs / f"{link.name}.yaml").read_text(encoding="utf-8"))
    return int(settings["trainer"]["max_steps"])


def check_configurations(configs: Path) -> None:
    """Refuse a folder without the configurations of the chain, by a FileNotFoundError."""
    missing = [str(configs / f"{link.name}.yaml") for link in CHAIN if not (configs / f"{link.name}.yaml").is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the nano configurations in '{configs}', missing {', '.join(missing)}. "
            "Run this in the project's folder, or name theirs with --configs."
        )


def find_photographs(folder: str | Path | None) -> str | None:
    """The absolute path of a folder of photographs; None, the sample photographs, stays None.

    Raises:
        FileNotFoundError: If it holds no photograph.
    """
    if folder is None:
        return None
    from ctsr_lightning.images import list_images

    source = str(Path(folder).expanduser().resolve())
    list_images(source)
    return source


def remember_photographs(output: Path, source: str | None) -> None:
    """Record in an output folder, made as needed, which photographs it is trained on.

    Raises:
        ValueError: If it was trained on others.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = output / "data.json"
    known = json.loads(record.read_text(encoding="utf-8"))["data"] if record.is_file() else source
    if known != source:
        sample = "the sample photographs"
        raise ValueError(
            f"'{output}' was trained on {known or sample}, not on {source or sample}. Name another --output, or "
            "delete that folder."
        )
    record.write_text(json.dumps({"data": source}) + "\n", encoding="utf-8")


def data_options(source: str | None, repeats: int, val: str | None = None) -> list[str]:
    """Options of `ctsr fit`: photographs to train on (None: the samples) and to validate on (None: held out)."""
    options = [] if source is None else ["--data.init_args.train", json.dumps([source])]
    if val is not None:
        options += ["--data.init_args.val", json.dumps([val])]
    elif source is not None:
        options += ["--data.init_args.val_split", str(HELD_OUT)]
    return [*options, "--data.init_args.val_repeats", str(repeats)]


def announce(number: int, parts: int, text: str) -> None:
    """Print which part of a command begins: its number, from 1, out of how many."""
    print(f"\n[{number}/{parts}] {text}", flush=True)


def training_precision(device: str, precision: TrainingPrecision) -> str:
    """Lightning's name of the type that networks compute in while they are trained."""
    half = computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return "bf16-mixed" if half else "32-true"


def train_link(
    command: str,
    configs: Path,
    output: Path,
    link: Link,
    length: Length,
    options: Sequence[str],
    device: str,
    precision: TrainingPrecision,
) -> float:
    """Run one training, from its last checkpoint if there is one; a complete one is passed over.

    Args:
        command: Name of the recipe, for its message after Ctrl-C.
        configs: Folder of the configurations.
        output: Folder for one folder per training.
        link: The training.
        length: Its length.
        options: Further options of `ctsr fit`.
        device: Accelerator for Lightning.
        precision: Type that networks compute in.

    Returns:
        Seconds over all its runs.
    """
    from ctsr_lightning.inference.devices import pick_device
    from ctsr_lightning.training import training_cli

    os.environ["CTSR_RUNS"] = str(output)  # where the configurations look for each other's weights
    folder = output / link.name
    before = float(read_training(folder).get("seconds", 0.0))
    if (folder / WEIGHTS).is_file():
        print(f"complete: {folder / WEIGHTS}", flush=True)
        return before
    words = ["fit", "--config", str(configs / f"{link.name}.yaml"), *options, "--trainer.accelerator", device]
    words += ["--trainer.precision", "32-true" if link.fine else training_precision(device, precision)]
    words += ["--trainer.max_steps", str(length.steps), "--trainer.check_val_every_n_epoch", "null"]
    words += ["--trainer.val_check_interval", str(max(1, length.steps // length.validations))]
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        words += ["--ckpt_path", str(last)]
    record, start = {"device": describe_device(pick_device(torch_device(device)))}, time.perf_counter()
    try:
        with warnings.catch_warnings():
            # Lightning's summary does not know how large weights are in bf16-mixed, and takes 32 bits: rightly so.
            warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")
            model: Any = training_cli(words).model
        if (loss := getattr(model, "reconstruction", None)) is not None and loss.perceptual is not None:
            record["perceptual"] = loss.perceptual.network.name
    except SystemExit:  # Ctrl-C, which Lightning has handled: the last checkpoint is written
        again = f"`python -m recipes {command}` or `make {command}`"
        print(f"ctsr: the same {again} goes on from there as well.", file=sys.stderr)
        raise
    finally:
        seconds = before + time.perf_counter() - start
        if folder.is_dir():
            (folder / TRAINING).write_text(json.dumps({"seconds": seconds, **record}) + "\n", encoding="utf-8")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"Expected the training to write '{folder / WEIGHTS}', found nothing.")
    return seconds


def read_training(folder: Path) -> dict[str, Any]:
    """Duration, device and perceptual distance of a training, as far as they are known.

    A `note` that somebody adds to the file, of a training that was not made in one go, say, gets into the model card.
    """
    path = folder / TRAINING
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known
