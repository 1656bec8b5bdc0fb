"""`make demo`: both stages of CTSR on a laptop, from the package's experts and photographs to a trade-off curve."""

from __future__ import annotations

import filecmp
import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ctsr_lightning.evaluation.labels import CTSR
from ctsr_lightning.inference.devices import torch_device
from ctsr_lightning.inference.settings import Precision, TrainingPrecision
from recipes.chain import (
    CHAIN,
    HELD_OUT,
    WEIGHTS,
    Length,
    Link,
    announce,
    check_configurations,
    data_options,
    find_photographs,
    remember_photographs,
    train_link,
    training_precision,
)

EXPERTS: Final = ("codec", "prior", "fidelity_teacher", "realness_teacher")
"""Folders of the package that the demo starts from."""
STEPS: Final = {"stage1": 64, "stage2": 400}
"""Optimizer steps of each stage, validated once at the end."""
POOL, BATCH = 400, 4
"""Distinct training crops at most, as each costs degradations and a pass of the frozen networks; crops per step."""
OVERRIDES: Final = {
    "stage1": {
        "model.init_args.reconstruction.lambda_lpips": "4.0",  # so few steps would gain more PSNR than realness
        "model.init_args.optimizer.init_args.lr": "0.00006",  # at 0.0001 so few crops make the student worse than T_r
        "model.init_args.scheduler.init_args.warmup_steps": "10",
    },
    "stage2": {
        "model.init_args.lambda_grid": "0.0",  # in a short training it holds t = 1 back from T_f, by 0.17 dB
        "model.init_args.optimizer.init_args.lr": "0.001",
        "model.init_args.scheduler.init_args.warmup_steps": "10",
    },
}
"""Settings that replace the configured ones in so short a training."""
FEWEST: Final = 5
"""Photographs that the demo needs: four to train on and one to hold out."""
CROP, REPEATS = 256, 3
"""Side in pixels of the crops to measure on, and their number per photograph, each degraded in its own way."""
CONTROLS, ALPHAS = "0,0.25,0.5,0.75,1", "0.25,0.5,0.75"
LARGEST = 1024
"""Side in pixels beyond which a held-out photograph is cropped."""
MARGIN: Final = 0.4
"""Decibels of PSNR-Y that t = 1 has to be above t = 0, and above bicubic enlargement."""


class Finding(NamedTuple):
    """One property of a measured trade-off, in words and figures, and whether it is as it should be."""

    text: str
    holds: bool


def demo(
    output: str | Path = "runs/demo",
    photos: str | Path | None = None,
    configs: str | Path = "configs/nano",
    steps: float = 1.0,
    device: str = "auto",
    precision: TrainingPrecision = "auto",
) -> int:
    """Train both stages of CTSR on photographs from the package's experts, then test, sweep and restore.

    Codec, prior, T_f (faithful) and T_r (realistic) come with the package and are copied to OUTPUT. Stage 1 starts as
    T_r and learns from both; stage 2 starts from stage 1 and learns the way to T_f, from cached outputs of the frozen
    networks. Takes some minutes on two CPU cores and downloads nothing. Finished trainings are kept: the same command
    after Ctrl-C goes on where it stopped. Afterwards OUTPUT holds TensorBoard logs, tradeoff.png, grid.png, restored
    photos and metrics.json, and the last lines say whether t trades realness for fidelity as it should.
    `python -m recipes nano` trains everything from nothing.

    Example:
        python -m recipes demo --photos my/photos

    Args:
        output: Folder for everything that is made.
        photos: Folder of photographs to train on, five or more, a few of which are held out. Without it, the
            photographs that come with scikit-image.
        configs: Folder of the nano configurations.
        steps: Factor on the length of both trainings: 10 trains ten times as long.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.
        precision: Type that networks compute in while they are trained; weights and measurements are in float32. auto
            takes bfloat16 where the device multiplies it natively (a GPU, or a CPU with AVX512-BF16 or AMX), as it is
            faster there and slower elsewhere.

    Returns:
        0, also where the trade-off is not as it should be.
    """
    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    check_configurations(configs)
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, found {steps}.")
    source = find_photographs(photos)
    held_out = hold_out_photographs(source)
    remember_photographs(output, source)
    bring_experts(output)
    seconds = _train(configs, output, source, steps, device, precision)
    announce(4, 4, "test, sweep and restored photographs")
    start = time.perf_counter()
    tested = _test(configs, output, [*data_options(source, REPEATS), "--trainer.accelerator", device])
    report = _use(output, held_out, device)
    seconds["evaluation"] = time.perf_counter() - start
    _write_metrics(output, tested, report, seconds, source)
    return 0


def hold_out_photographs(source: str | None) -> list[Path]:
    """The photographs of a folder, or of the samples, that are held out of training.

    Raises:
        ValueError: If there are too few photographs.
    """
    from ctsr_lightning.data import RealESRGANDataModule

    train: list[str | Path] | None = None if source is None else [source]
    photos = RealESRGANDataModule(train, crop=128, val_crop=CROP, val_split=HELD_OUT, num_workers=0)
    photos.setup("fit")
    held_out = photos.validation_photos
    count = len(photos.train_dataloader().dataset) + len(held_out)  # type: ignore[arg-type]  # torch's type has no length
    if count < FEWEST:
        raise ValueError(
            f"Expected at least {FEWEST} photographs of 128 pixels or more in '{source}', found {count}: a fifth is "
            "held out. Add photographs, or leave --photos out for the sample photographs."
        )
    return held_out


def bring_experts(output: Path) -> None:
    """Copy the package's codec, prior and teachers to the output folder, where the configurations look for them.

    Raises:
        FileNotFoundError: If this copy of the package has none.
        ValueError: If others are there.
    """
    from ctsr_lightning.weights.shipped import shipped_folder, shipped_model

    shipped_model()  # refuses a package without weights
    package = shipped_folder()
    for name in EXPERTS:
        there = output / name / WEIGHTS
        if there.is_file() and not filecmp.cmp(package / name / WEIGHTS, there, shallow=False):
            raise ValueError(
                f"Expected the package's own {name} at '{there}', found another: of `make nano`, or of another version "
                "of ctsr_lightning. Name another --output, or delete that folder."
            )
    for name in EXPERTS:
        shutil.copytree(package / name, output / name, dirs_exist_ok=True)


def _train(
    configs: Path, output: Path, source: str | None, steps: float, device: str, precision: TrainingPrecision
) -> dict[str, float]:
    """Train both stages, the second with a cache of its frozen networks' outputs; seconds by part."""
    from ctsr_lightning.commands.cache import fill_cache
    from ctsr_lightning.share import ALONE

    lengths = {name: Length(max(2, round(full * steps)), 1) for name, full in STEPS.items()}
    pool = min(POOL, BATCH * max(length.steps for length in lengths.values()))
    options = {}
    for name, overrides in OVERRIDES.items():
        settings = {"data.init_args.batch_size": str(BATCH), "data.init_args.pool": str(pool), **overrides}
        options[name] = data_options(source, repeats=1)  # so that the grid shows different photographs
        options[name] += [word for key, value in settings.items() for word in (f"--{key}", value)]
    stage1, stage2 = (next(link for link in CHAIN if link.name == name) for name in STEPS)
    cache = output / "cache"

    def train(link: Link, *further: str) -> float:
        words = [*options[link.name], "--trainer.num_sanity_val_steps", "0", *further]
        return train_link("demo", configs, output, link, lengths[link.name], words, device, precision)

    announce(1, 4, stage1.text)
    seconds = {"stage1": train(stage1)}
    announce(2, 4, "cache: outputs of stage 2's frozen networks")
    start = time.perf_counter()
    if (output / "stage2" / WEIGHTS).is_file():
        print("complete: not needed any more", flush=True)
    else:
        words = ["--config", str(configs / "stage2.yaml"), *options["stage2"]]
        dtype: Precision = "bfloat16" if training_precision(device, precision) == "bf16-mixed" else "float32"
        fill_cache(words, cache, None, None, ALONE, torch_device(device), dtype, keep=False)
    seconds["cache"] = time.perf_counter() - start
    announce(3, 4, stage2.text)
    seconds["stage2"] = train(stage2, "--model.init_args.cache", str(cache))
    shutil.rmtree(cache, ignore_errors=True)  # 0.3 MB per crop that nothing reads any more
    return seconds


def _test(configs: Path, output: Path, options: list[str]) -> dict[str, float]:
    """Measure stage 2 on the held-out photographs through `ctsr test`."""
    from ctsr_lightning.training import training_cli

    words = ["test", "--config", str(configs / "stage2.yaml"), *options, "--ckpt_path", str(_checkpoint(output))]
    cli = training_cli(words)
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def _use(output: Path, held_out: Sequence[Path], device: str) -> dict[str, Any]:
    """Sweep crops of held-out photographs and restore them whole by the commands of the package."""
    from ctsr_lightning.commands.sweep import sweep
    from ctsr_lightning.commands.upscale import upscale
    from ctsr_lightning.data import RealESRGANDataModule
    from ctsr_lightning.images import write_image

    whole = RealESRGANDataModule(test=[str(path) for path in held_out], crop=128, num_workers=0)
    whole.setup("test")
    for batch in whole.test_dataloader():
        assert batch.gt is not None
        side = LARGEST // whole.scale
        write_image(output / "photos" / "lq" / f"{batch.key[0]}.png", batch.lq[0, :, :side, :side])
        write_image(output / "photos" / "gt" / f"{batch.key[0]}.png", batch.gt[0, :, :LARGEST, :LARGEST])
    checkpoint, where = _checkpoint(output), torch_device(device)
    gt, swept = output / "photos" / "gt", output / "sweep"
    crops: dict[str, Any] = {"crop": CROP, "repeats": REPEATS, "device": where}
    sweep(checkpoint, gt, output=swept, control=CONTROLS, alphas=ALPHAS, **crops)
    lq, results = output / "photos" / "lq", output / "restored"
    upscale(lq, results, checkpoint=checkpoint, control=CONTROLS, device=where, overwrite=True)
    for name in ("tradeoff.png", "tradeoff.html"):
        shutil.copyfile(swept / name, output / name)
    if grids := sorted((output / "stage2" / "images").glob("*.png")):
        shutil.copyfile(grids[-1], output / "grid.png")
    report: dict[str, Any] = json.loads((swept / "tradeoff.json").read_text(encoding="utf-8"))
    return report


def _checkpoint(output: Path) -> Path:
    return output / "stage2" / "checkpoints" / "last.ckpt"


def judge_tradeoff(report: Mapping[str, Any]) -> list[Finding]:
    """Whether t trades realness for fidelity, from the tradeoff.json of `ctsr sweep`.

    PSNR-Y at t = 1 has to be `MARGIN` above t = 0 and above bicubic, the perceptual distance has to rise monotonically
    with t, and either teacher has to be the better one on its own axis.
    """
    name = report["settings"]["perceptual"]
    rows = {row["setting"]: row for row in report["results"]}
    psnr = {setting: float(row["psnr_y"]) for setting, row in rows.items()}
    distance = {setting: float(row[name]) for setting, row in rows.items()}
    findings = []
    for other, text in (("t=0.00", "t = 0"), ("bicubic", "bicubic enlargement")):
        gain = psnr["t=1.00"] - psnr[other]
        found = f"PSNR-Y at t = 1 is {abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} that of {text}"
        figures = f"({psnr['t=1.00']:.2f} and {psnr[other]:.2f}; at least {MARGIN} dB above are expected)."
        findings.append(Finding(f"{found} {figures}", gain >= MARGIN))
    along = report["frontier"]["monotone"][CTSR][name]
    findings.append(Finding(along["sentence"], along["holds"] and not along["flat"]))
    for teacher, metric, values, better in (
        ("T_f", "PSNR-Y", psnr, psnr["T_f"] > psnr["T_r"]),
        ("T_r", name, distance, distance["T_r"] < distance["T_f"]),
    ):
        figures = f"T_f {values['T_f']:.4f}, T_r {values['T_r']:.4f}."
        found = f"{teacher} is {'' if better else 'not '}the better teacher in {metric}: {figures}"
        findings.append(Finding(found, better))
    return findings


def _write_metrics(
    output: Path, tested: dict[str, float], report: dict[str, Any], seconds: dict[str, float], source: str | None
) -> None:
    """Write metrics.json, print where everything is, and the verdict."""
    from ctsr_lightning.evaluation.report import write_json

    name, is_lpips = (report["settings"][key] for key in ("perceptual", "perceptual_is_lpips"))
    findings = judge_tradeoff(report)
    failed = sum(not finding.holds for finding in findings)
    record = {
        "data": source or "sample photographs of scikit-image",
        "perceptual_distance": {"name": name, "is_lpips": is_lpips},
        "verdict": {"holds": failed == 0, "findings": [finding._asdict() for finding in findings]},
        "test": tested,
        "sweep": report["results"],
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "versions": report["versions"],
    }
    write_json(output / "metrics.json", record)
    stand_in = f"\nLPIPS's weights are not on disk: '{name}', this project's own stand-in, took its place."
    note = "" if is_lpips else stand_in
    restore = ["ctsr", "upscale", "PHOTOS", "OUT", "--checkpoint", str(_checkpoint(output))]
    print(
        f"\nDone in {sum(seconds.values()) / 60:.1f} minutes.{note}\n"
        f"  curve     {output / 'tradeoff.png'}, interactive {output / 'tradeoff.html'}\n"
        f"  grid      {output / 'grid.png'}\n"
        f"  photos    {output / 'restored'}\n"
        f"  figures   {output / 'metrics.json'}\n"
        f"  curves    tensorboard --logdir {output}\n"
        f"  restore   {shlex.join(restore)} --control 0,0.5,1\n"
        f"\nVerdict, from {report['images']} crops of photographs that were not trained on:"
    )
    for finding in findings:
        print(f"  {'as expected    ' if finding.holds else 'NOT AS EXPECTED'}  {finding.text}")
    if failed:
        print(
            f"The trade-off is not as it should be: {failed} of {len(findings)} findings are off. Train longer "
            "(--steps 4 in another --output), or on more photographs (--photos)."
        )
    else:
        print("The trade-off is as it should be: t moves from realness to fidelity.")
