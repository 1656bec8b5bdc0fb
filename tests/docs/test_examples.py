"""The examples run as they are, on tiny inputs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctsr_lightning.images import image_size

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FEW = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.max_steps=2",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
    "--data.crop=64",
    "--data.val_crop=64",
    "--data.pool=4",
    "--data.batch_size=1",
    "--data.samples_per_epoch=2",
    "--model.scheduler.total_steps=9",
    "--model.scheduler.warmup_steps=1",
]


def draw(folder: Path, names: tuple[str, ...], side: int) -> Path:
    """Write smooth drawn photographs."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def run(name: str, *words: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run an example as `python examples/NAME.py WORDS`."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = draw(tmp_path / "photos", ("boat",), 16) / "boat.png"
    run("restore", photo, tmp_path / "restored", monkeypatch=monkeypatch)
    written = sorted(path.name for path in (tmp_path / "restored").iterdir())
    assert written == [f"boat_t{t}.png" for t in ("0.00", "0.25", "0.50", "0.75", "1.00")]
    assert image_size(tmp_path / "restored" / "boat_t0.50.png") == (64, 64)


def test_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lq, gt = draw(tmp_path / "lq", ("one", "two"), 16), draw(tmp_path / "gt", ("one", "two"), 64)
    run("evaluate", lq, gt, tmp_path / "results", monkeypatch=monkeypatch)
    assert "t=0.50" in capsys.readouterr().out
    assert any((tmp_path / "results").iterdir())


@pytest.mark.slow
def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photos = draw(tmp_path / "photos", ("a", "b", "c", "d", "e"), 128)
    monkeypatch.setenv("CTSR_RUNS", str(tmp_path / "runs"))
    run("train_from_python", photos, *FEW, monkeypatch=monkeypatch)
    assert "PSNR after encoding and decoding:" in capsys.readouterr().out
    assert (tmp_path / "runs" / "codec" / "weights.safetensors").is_file()
