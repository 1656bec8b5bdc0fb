"""`ctsr demo`: the whole of CTSR on a laptop, from photographs to a trade-off curve."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from ctsr_lightning.commands.chain import (
    CHAIN,
    HELD_OUT,
    Length,
    announce,
    check_configurations,
    data_options,
    remember_data,
    train_chain,
)
from ctsr_lightning.commands.options import TrainingPrecision, torch_device

CONTROLS, ALPHAS = "0,0.25,0.5,0.75,1", "0.25,0.5,0.75"
LARGEST = 1024
"""Side in pixels beyond which a held-out photograph is cropped."""


def demo(
    output: str | Path = "runs/demo",
    data: str | Path | None = None,
    configs: str | Path = "configs/nano",
    steps: float = 1.0,
    device: str = "auto",
    precision: TrainingPrecision = "auto",
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
        precision: Type that networks compute in while they are trained; weights stay in float32. auto takes bfloat16
            where the device multiplies it natively (a GPU, or a CPU with AVX512-BF16 or AMX), as it is faster there
            and slower elsewhere. The autoencoder is trained in float32 in any case.

    Returns:
        0.
    """
    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    check_configurations(configs)
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, got {steps}.")
    source = remember_data(output, data)
    options = data_options(source, repeats=2)
    lengths = {link.name: Length(max(2, round(link.demo_steps * steps)), link.validations) for link in CHAIN}
    seconds = train_chain("demo", configs, output, lengths, options, device, precision)
    announce(len(CHAIN) + 1, "test, sweep and restored photographs")
    start = time.perf_counter()
    tested = _test(configs, output, [*options, "--trainer.accelerator", device])
    report = _use(output, source, device)
    seconds["evaluation"] = time.perf_counter() - start
    _write_metrics(output, tested, report, seconds, source)
    return 0


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
    where = torch_device(device)
    gt, lq = (output / "photos" / side for side in ("gt", "lq"))
    sweep(checkpoint, gt, lq, output=output / "sweep", controls=CONTROLS, alphas=ALPHAS, device=where)
    upscale(lq, output / "restored", checkpoint, CONTROLS, device=where, overwrite=True)
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
