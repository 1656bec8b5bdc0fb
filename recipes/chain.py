"""The six trainings from photographs to both stages of CTSR: `make nano` runs all, `make demo` the last two."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ctsr_lightning.inference.devices import computes_bfloat16, describe_device, torch_device
from ctsr_lightning.inference.settings import TrainingPrecision

WEIGHTS: Final = "weights.safetensors"
"""What a training leaves when it is complete."""
TRAINING: Final = "training.json"
"""How long a training took and where, beside its weights."""
HELD_OUT: Final = 6
"""Photographs that are kept from the training, where they are the reader's and no others are named."""


@dataclass(frozen=True)
class Link:
    """One training of the chain."""

    name: str
    """Name of its configuration, which holds its full length, and of its folder."""
    text: str
    """What it makes."""
    fine: bool = False
    """Whether it computes in float32 in any case, as bfloat16's 8 bits would limit what it makes."""


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
    """How long one training is."""

    steps: int
    """Optimizer steps."""
    validations: int
    """Validations on the way, the last at its end."""


def configured_steps(configs: Path, link: Link) -> int:
    """Optimizer steps of a training as its configuration has them: the full length.

    Args:
        configs: Folder of the configurations.
        link: The training.
    """
    settings = yaml.safe_load((configs / f"{link.name}.yaml").read_text(encoding="utf-8"))
    return int(settings["trainer"]["max_steps"])


def check_configurations(configs: Path) -> None:
    """Refuse a folder without the configurations of the chain.

    Args:
        configs: The folder.

    Raises:
        FileNotFoundError: If one is missing.
    """
    missing = [str(configs / f"{link.name}.yaml") for link in CHAIN if not (configs / f"{link.name}.yaml").is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the nano configurations in '{configs}', missing {', '.join(missing)}. "
            "Run this in the project's folder, or name theirs with --configs."
        )


def find_photographs(data: str | Path | None) -> str | None:
    """Find the folder of photographs to train on, and refuse a wrong one before anything is trained.

    Args:
        data: Folder of photographs, or None for the sample photographs.

    Returns:
        The folder as an absolute path, or None.

    Raises:
        FileNotFoundError: If there is no photograph.
    """
    if data is None:
        return None
    from ctsr_lightning.images import list_images

    source = str(Path(data).expanduser().resolve())
    list_images(source)
    return source


def remember_data(output: Path, source: str | None) -> None:
    """Remember which photographs an output folder was trained on, and refuse to mix two sets in one.

    Args:
        output: The folder, made as needed.
        source: What `find_photographs` returned.

    Raises:
        ValueError: If the folder was trained on others.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = output / "data.json"
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))["data"]
        if known != source:
            raise ValueError(
                f"'{output}' was trained on {known or 'the sample photographs'}, not on "
                f"{source or 'the sample photographs'}. Name another --output, or delete that folder."
            )
    record.write_text(json.dumps({"data": source}) + "\n", encoding="utf-8")


def data_options(source: str | None, repeats: int, val: str | None = None) -> list[str]:
    """The options of `ctsr fit` that say which photographs are trained and validated on.

    Args:
        source: Folder of photographs, or None for the sample photographs.
        repeats: Degradations of each photograph that is validated on.
        val: Folder of photographs to validate on; None holds out some of the others.
    """
    options = [] if source is None else ["--data.init_args.train", json.dumps([source])]
    if val is not None:
        options += ["--data.init_args.val", json.dumps([val])]
    elif source is not None:
        options += ["--data.init_args.val_split", str(HELD_OUT)]
    return [*options, "--data.init_args.val_repeats", str(repeats)]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one step: another process sees the old or the new content, never half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def announce(number: int, parts: int, text: str) -> None:
    """Say which part of a command begins.

    Args:
        number: Its number, from 1.
        parts: How many there are.
        text: What it is.
    """
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
    """Run one training, from its last checkpoint if there is one; what is complete is passed over.

    Args:
        command: The command that does so, for what it says after Ctrl-C.
        configs: Folder of the configurations.
        output: Folder for one folder per training.
        link: The training.
        length: How long it is.
        options: Further options of `ctsr fit`.
        device: Accelerator for Lightning.
        precision: Type that networks compute in.

    Returns:
        Seconds that it took, over all its runs.
    """
    os.environ["CTSR_RUNS"] = str(output)  # where the configurations look for each other's weights
    words = ["--config", str(configs / f"{link.name}.yaml"), *options, "--trainer.accelerator", device]
    words += ["--trainer.precision", "32-true" if link.fine else training_precision(device, precision)]
    return _train(command, output / link.name, length, words, device)


def _train(command: str, folder: Path, length: Length, words: list[str], device: str) -> float:
    """Run one training to its end; the seconds it took over all its runs."""
    if (folder / WEIGHTS).is_file():
        print(f"complete: {folder / WEIGHTS}", flush=True)
        return float(read_training(folder).get("seconds", 0.0))
    from ctsr_lightning.inference.restorer import pick_device
    from ctsr_lightning.training import training_cli

    every = max(1, length.steps // length.validations)
    words = ["fit", *words, "--trainer.max_steps", str(length.steps)]
    words += ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", str(every)]
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        words += ["--ckpt_path", str(last)]
    record = {"device": describe_device(pick_device(torch_device(device)))}

    def fit() -> None:
        try:
            with warnings.catch_warnings():
                # Lightning's summary does not know how large weights are in bf16-mixed, and takes 32 bits: rightly so.
                warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")
                model: Any = training_cli(words).model
        except SystemExit:  # Ctrl-C, which Lightning has handled: the last checkpoint is written
            print(
                f"ctsr: the same `python -m recipes {command}` or `make {command}` goes on from there as well.",
                file=sys.stderr,
            )
            raise
        if hasattr(model, "perceptual"):
            record["perceptual"] = model.perceptual.network.name

    return _timed(folder, record, fit)


def _timed(folder: Path, record: dict[str, Any], work: Callable[[], None]) -> float:
    """Do the work and write how long all of it has taken, also if it is interrupted."""
    before = float(read_training(folder).get("seconds", 0.0))
    start = time.perf_counter()
    try:
        work()
    finally:
        seconds = before + time.perf_counter() - start
        if folder.is_dir():
            text = json.dumps({"seconds": seconds, **record}) + "\n"
            (folder / TRAINING).write_text(text, encoding="utf-8")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"Expected the training to write '{folder / WEIGHTS}', found nothing.")
    return seconds


def read_training(folder: Path) -> dict[str, Any]:
    """How long a training took, on what device and with which perceptual distance, as far as that is known.

    A `note` that somebody adds to the file, of a training that was not made in one go, say, gets into the model card.

    Args:
        folder: The training's folder.
    """
    path = folder / TRAINING
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known
