"""`ctsr demo`: the whole of CTSR on a laptop, from photographs to a trade-off curve."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

WEIGHTS = "weights.safetensors"
CONTROLS, ALPHAS = "0,0.25,0.5,0.75,1", "0.25,0.5,0.75"
HELD_OUT = 4
"""Photographs that are kept from the training, where it is the reader's."""
LARGEST = 1024
"""Side in pixels beyond which a held-out photograph is cropped."""


@dataclass(frozen=True)
class Link:
    """One training of the chain."""

    name: str
    """Name of its configuration and of its folder."""
    steps: int
    """Optimizer steps in the demo."""
    validations: int
    """How often it is validated."""
    text: str
    """What it makes."""


CHAIN = (
    Link("codec", 200, 1, "autoencoder: photographs to latents and back"),
    Link("prior", 500, 1, "diffusion prior of clean photographs"),
    Link("fidelity_teacher", 800, 2, "T_f, faithful: residual shift"),
    Link("realness_teacher", 350, 2, "T_r, realistic: one-step distillation"),
    Link("stage1", 150, 2, "stage 1: two teachers, one student"),
    Link("stage2", 400, 3, "stage 2: the velocity field from realness to fidelity"),
)
"""The trainings in order; each starts from the weights of those before it."""


def demo(
    output: str | Path = "runs/demo",
    data: str | Path | None = None,
    configs: str | Path = "configs/nano",
    steps: float = 1.0,
    device: str = "auto",
) -> int:
    """Train both CTSR stages and their teachers from photographs, then test, sweep and restore.

    Takes some minutes on two CPU cores and downloads nothing. What is finished is kept: the same command after Ctrl-C
    goes on where it stopped. Afterwards OUTPUT holds TensorBoard logs, tradeoff.png, grid.png, restored photos and
    metrics.json.

    Example:
        ctsr demo --data my/photos

    Args:
        output: Folder for everything that is made.
        data: Folder of photographs to train on, a few of which are held out. Without it, the photographs that come
            with scikit-image.
        configs: Folder of the nano configurations.
        steps: Factor on the length of every training: 10 trains ten times as long.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.

    Returns:
        0.
    """
    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    missing = [str(configs / f"{link.name}.yaml") for link in CHAIN if not (configs / f"{link.name}.yaml").is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected the nano configurations in '{configs}', missing {', '.join(missing)}. "
            "Run this in the project's folder, or name theirs with --configs."
        )
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, got {steps}.")
    source = _check_data(output, data)
    options = ["--trainer.accelerator", device]
    if source is not None:
        options += ["--data.init_args.train", json.dumps([source])]
        options += ["--data.init_args.val_split", str(HELD_OUT), "--data.init_args.val_repeats", "2"]

    import os

    os.environ["CTSR_RUNS"] = str(output)  # where the configurations look for each other's weights
    seconds = {}
    for number, link in enumerate(CHAIN, start=1):
        print(f"\n[{number}/{len(CHAIN) + 1}] {link.text}", flush=True)
        seconds[link.name] = _timed(output / link.name, partial(_train, link, configs, output, steps, options))
    print(f"\n[{len(CHAIN) + 1}/{len(CHAIN) + 1}] test, sweep and restored photographs", flush=True)
    start = time.perf_counter()
    tested = _test(configs, output, options)
    report = _use(output, source, device)
    seconds["evaluation"] = time.perf_counter() - start
    _write_metrics(output, tested, report, seconds, source)
    return 0


def _check_data(output: Path, data: str | Path | None) -> str | None:
    """Remember which photographs an output folder was trained on, and refuse to mix two sets in one."""
    source = None if data is None else str(Path(data).expanduser().resolve())
    if source is not None:
        from ctsr_lightning.images import list_images

        list_images(source)  # refuses a wrong folder before anything is trained
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
    return source


def _timed(folder: Path, work: Callable[[], bool]) -> float:
    """Run a training and remember its time beside its weights, so that a resumed demo reports it as well."""
    clock = folder / "seconds.json"
    before = float(json.loads(clock.read_text(encoding="utf-8"))) if clock.is_file() else 0.0
    start = time.perf_counter()
    try:
        worked = work()
    finally:
        total = before + time.perf_counter() - start
        if folder.is_dir() and not (folder / WEIGHTS).is_file():
            clock.write_text(json.dumps(total), encoding="utf-8")
    if worked:
        clock.write_text(json.dumps(total), encoding="utf-8")
    return total if worked else before


def _train(link: Link, configs: Path, output: Path, steps: float, options: list[str]) -> bool:
    """Run one training, from its last checkpoint if there is one; False if it was complete already."""
    from ctsr_lightning.training import training_cli

    folder = output / link.name
    if (folder / WEIGHTS).is_file():
        print(f"complete: {folder / WEIGHTS}", flush=True)
        return False
    total = max(2, round(link.steps * steps))
    every = max(1, total // link.validations)
    last = folder / "checkpoints" / "last.ckpt"
    command = ["fit", "--config", str(configs / f"{link.name}.yaml"), *options, "--trainer.max_steps", str(total)]
    command += ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", str(every)]
    if last.is_file():
        command += ["--ckpt_path", str(last)]
    try:
        training_cli(command)
    except SystemExit:  # Ctrl-C, which Lightning has handled: the last checkpoint is written
        print("ctsr: the same `ctsr demo` or `make demo` goes on from there as well.", file=sys.stderr)
        raise
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"Expected the training to write '{folder / WEIGHTS}', found nothing.")
    return True


def _test(configs: Path, output: Path, options: list[str]) -> dict[str, float]:
    """Measure stage 2 on the held-out photographs through `ctsr test`."""
    from ctsr_lightning.training import training_cli

    checkpoint = output / "stage2" / "checkpoints" / "last.ckpt"
    cli = training_cli(["test", "--config", str(configs / "stage2.yaml"), *options, "--ckpt_path", str(checkpoint)])
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def _use(output: Path, source: str | None, device: str) -> dict[str, Any]:
    """Sweep and restore whole held-out photographs with the commands that a user has."""
    from ctsr_lightning.commands.sweep import sweep
    from ctsr_lightning.commands.upscale import upscale
    from ctsr_lightning.data import RealESRGANDataModule
    from ctsr_lightning.images import write_image

    train: list[str | Path] | None = None if source is None else [source]
    trained = RealESRGANDataModule(train, crop=128, val_crop=256, val_split=HELD_OUT, num_workers=0)
    trained.setup("validate")
    whole = RealESRGANDataModule(test=[str(path) for path in trained.validation_photos], crop=128, num_workers=0)
    whole.setup("test")
    for batch in whole.test_dataloader():
        assert batch.gt is not None
        side = LARGEST // whole.scale
        write_image(output / "photos" / "lq" / f"{batch.key[0]}.png", batch.lq[0, :, :side, :side])
        write_image(output / "photos" / "gt" / f"{batch.key[0]}.png", batch.gt[0, :, :LARGEST, :LARGEST])
    checkpoint = output / "stage2" / "checkpoints" / "last.ckpt"
    torch_device = {"gpu": "cuda"}.get(device, device)
    gt, lq = (output / "photos" / side for side in ("gt", "lq"))
    sweep(checkpoint, gt, lq, output=output / "sweep", controls=CONTROLS, alphas=ALPHAS, device=torch_device)
    upscale(lq, output / "restored", checkpoint, CONTROLS, device=torch_device, overwrite=True)
    for name in ("tradeoff.png", "tradeoff.html"):
        shutil.copyfile(output / "sweep" / name, output / name)
    grids = sorted((output / "stage2" / "images").glob("*.png"))
    if grids:
        shutil.copyfile(grids[-1], output / "grid.png")
    report: dict[str, Any] = json.loads((output / "sweep" / "tradeoff.json").read_text(encoding="utf-8"))
    return report


def _write_metrics(
    output: Path, tested: dict[str, float], report: dict[str, Any], seconds: dict[str, float], source: str | None
) -> None:
    """Write metrics.json and say where everything is."""
    is_lpips = bool(report["settings"]["perceptual_is_lpips"])
    name = report["settings"]["perceptual"]
    record = {
        "data": source or "sample photographs of scikit-image",
        "perceptual_distance": {"name": name, "is_lpips": is_lpips},
        "test": tested,
        "sweep": report["results"],
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "versions": report["versions"],
    }
    (output / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    note = (
        "" if is_lpips else f"\nLPIPS's weights are not on disk: '{name}', this project's own stand-in, took its place."
    )
    print(
        f"\nDone in {sum(seconds.values()) / 60:.1f} minutes.{note}\n"
        f"  curve     {output / 'tradeoff.png'}, interactive {output / 'tradeoff.html'}\n"
        f"  grid      {output / 'grid.png'}\n"
        f"  photos    {output / 'restored'}\n"
        f"  figures   {output / 'metrics.json'}\n"
        f"  curves    tensorboard --logdir {output}\n"
        f"  restore   ctsr upscale PHOTOS OUT --checkpoint {output / 'stage2' / 'checkpoints' / 'last.ckpt'} "
        f"--control 0,0.5,1"
    )
