"""The parts that the page on extending adds are complete, and work through the real command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ctsr_lightning
from ctsr_lightning.cli import main
from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.images import image_size
from ctsr_lightning.metrics.named import NAMED

ROOT = Path(__file__).resolve().parents[2]
EXTEND = ROOT / "docs" / "extend"
SHIPPED = Path(ctsr_lightning.__file__).parent / "assets" / "nano"
TRAINER = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.max_steps=2",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
TINY = [
    "--data.crop=64",
    "--data.val_crop=64",
    "--data.val_repeats=1",
    "--data.batch_size=1",
    "--data.samples_per_epoch=2",
]


@pytest.fixture(autouse=True)
def _in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of the user's with the page's files on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXTEND))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two pairs of drawn photographs in `lq` and `gt`."""
    for name in ("one", "two"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for folder, side in (("gt", 64), ("lq", 16)):
            (tmp_path / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((side, side)).save(tmp_path / "pairs" / folder / f"{name}.png")
    return tmp_path / "pairs"


def logged(folder: Path) -> dict[str, float]:
    """The last value of every column of a CSV log."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for row in rows for name, value in row.items() if value}


def test_the_codec_gives_images_back_and_has_the_latents_it_says() -> None:
    from my_codec import ShuffleCodec

    codec: LatentCodec = ShuffleCodec(4)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    latent = codec.encode(image)
    assert latent.shape == (2, codec.channels, 4, 6)
    torch.testing.assert_close(codec.decode(latent), image)


def test_the_metric_is_zero_for_equal_images_and_known_for_a_step() -> None:
    from my_metric import EdgeError, edge_error

    gt = torch.zeros(1, 3, 4, 4)
    step = gt.clone()
    step[..., 2:] = 1.0  # one of three horizontal differences is that of Y of white, 219 of 255 levels
    metric = EdgeError()
    metric.update(gt, gt)
    metric.update(step, gt)
    assert edge_error(step, gt).item() == pytest.approx(219 / 3 / 2)
    assert metric.compute().item() == pytest.approx(219 / 3 / 2 / 2)


def test_training_codec_and_metric_work_from_one_configuration_and_restore(photographs: Path) -> None:
    main(["fit", "--config", str(EXTEND / "my_training.yaml"), *TRAINER, *TINY])
    run = Path("runs/charbonnier")
    values = logged(run)
    assert values["train/rec/charbonnier"] == pytest.approx(values["train/loss"])
    assert values["val/edge_error"] > 0
    assert (run / "weights.safetensors").is_file()
    restore = ["upscale", str(photographs / "lq"), "restored", "--checkpoint", str(run / "checkpoints" / "last.ckpt")]
    main([*restore, "--trust", "my_codec"])
    assert image_size("restored/one.png") == (64, 64)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_teacher_trains_both_stages(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "chain").symlink_to(SHIPPED)
    monkeypatch.setenv("CTSR_RUNS", "chain")
    log = [
        f"--trainer.logger.{name}={value}" for name, value in (("save_dir", "runs"), ("name", stage), ("version", ""))
    ]
    words = [
        "--model.fidelity",
        str(EXTEND / "my_teacher.yaml"),
        "--trainer.callbacks=[]",
        "--trainer.logger=CSVLogger",
    ]
    config = str(ROOT / "configs" / "nano" / f"{stage}.yaml")
    main(["fit", "--config", config, *words, *log, *TRAINER, *TINY, "--trainer.limit_val_batches=0"])
    values = logged(tmp_path / "runs" / stage)
    terms = ("fidelity/align", "fidelity/prior") if stage == "stage1" else ("velocity/match",)
    assert all(values[f"train/{term}"] > 0 for term in terms)


def test_the_classes_work_without_a_configuration(tmp_path: Path) -> None:
    from with_a_trainer import train

    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    batches = {"num_sanity_val_steps": 0, "limit_val_batches": 1, "val_check_interval": 2}
    training = train(2, **quiet, **batches, default_root_dir=tmp_path)
    assert training.trainer.global_step == 2
    assert training.trainer.callback_metrics["val/psnr_y"] > 0


@pytest.fixture
def _named() -> Iterator[None]:
    from my_metric import EdgeError

    NAMED["edge_error"] = EdgeError
    yield
    del NAMED["edge_error"]


@pytest.mark.usefixtures("_named")
def test_a_named_metric_is_a_word_of_the_evaluation(photographs: Path) -> None:
    shutil.copytree(photographs / "gt", "restored")
    main(["evaluate", "restored", str(photographs / "gt"), "--metrics", "psnr,edge_error", "--output", "results"])
    record = json.loads(Path("results/summary.json").read_text(encoding="utf-8"))
    assert "edge_error" in json.dumps(record)
    with Path("results/per_image.csv").open() as file:
        assert {float(row["edge_error"]) for row in csv.DictReader(file)} == {0.0}
