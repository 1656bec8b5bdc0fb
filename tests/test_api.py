"""The public Python interface: its names, what importing costs, and one use of each."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ctsr_lightning as ctsr
from ctsr_lightning.weights.shipped import shipped_folder

NAMES = {
    "Batch",
    "OutputSize",
    "RealESRGANDataModule",
    "Report",
    "Restorer",
    "Trajectory",
    "evaluate_folder",
    "evaluate_model",
    "fit",
    "load_teachers",
    "read_image",
    "trusting",
    "write_image",
}

shipped = pytest.mark.skipif(not (shipped_folder() / "stage2").is_dir(), reason="a copy without the shipped weights")


def test_the_surface_is_what_is_promised() -> None:
    assert set(ctsr.__all__) == NAMES
    assert list(ctsr.__all__) == sorted(ctsr.__all__)
    assert set(dir(ctsr)) >= NAMES
    for name in NAMES:
        assert inspect.getdoc(getattr(ctsr, name)), name
    with pytest.raises(AttributeError, match="no attribute 'Restorers'"):
        _ = ctsr.Restorers


def test_importing_is_cheap() -> None:
    code = "import sys, ctsr_lightning; print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


@shipped
def test_a_photo_is_restored_in_five_lines(tmp_path: Path) -> None:
    ctsr.write_image(tmp_path / "photo.png", torch.rand(3, 16, 16))
    model = ctsr.Restorer.from_pretrained(device="cpu")
    photo = ctsr.read_image(tmp_path / "photo.png")
    realistic, faithful = model(photo, t=[0, 1])
    path = model.trajectory(photo)
    assert isinstance(path, ctsr.Trajectory)
    assert torch.equal(model.decode(path, 1.0)[0], faithful)
    assert realistic.shape == faithful.shape == (3, 64, 64)
    assert ctsr.load_teachers(model.source).keys() == {"T_f", "T_r"}


def test_folders_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        image = torch.rand(3, 24, 24)
        ctsr.write_image(tmp_path / "gt" / f"{name}.png", image)
        ctsr.write_image(tmp_path / "restored" / f"{name}.png", (image + 0.1).clamp(0, 1))
    report = ctsr.evaluate_folder(tmp_path / "restored", tmp_path / "gt", ["psnr", "ssim"], device="cpu")
    assert isinstance(report, ctsr.Report)
    assert "| restored |" in report.to_markdown()
    folder = report.save(tmp_path / "results")
    assert json.loads((folder / "summary.json").read_text())["images"] == 2
    assert len((folder / "per_image.csv").read_text().splitlines()) == 3
    assert capsys.readouterr().out == ""  # results are returned, not printed


@shipped
def test_models_are_evaluated(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ctsr.write_image(tmp_path / "gt" / f"{name}.png", torch.rand(3, 64, 64))
    model = ctsr.Restorer.from_pretrained(device="cpu")
    report = ctsr.evaluate_model(model, gt=tmp_path / "gt", metrics="psnr", t=[0, 1], baselines="bicubic")
    assert [s.method.label for s in report.measurements.summaries()] == ["bicubic", "t=0.00", "t=1.00"]
    assert report.name.startswith("nano")


def test_ground_truth_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected ground truth"):
        ctsr.evaluate_folder(tmp_path)


def test_a_training_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without configurations: the name of one that comes with the package."""
    for number in range(3):
        ctsr.write_image(tmp_path / "photos" / f"{number}.png", torch.rand(3, 256, 256))
    monkeypatch.chdir(tmp_path)
    module = ctsr.fit(
        "nano/codec.yaml",
        '--data.train=["photos"]',
        "--data.val_split=1",
        "--data.batch_size=1",
        "--data.crop=64",
        "--data.num_workers=0",
        "--trainer.callbacks=null",
        "--trainer.logger=false",
        max_steps=1,
        accelerator="cpu",
        limit_val_batches=0,
    )
    assert type(module).__name__ == "CodecTraining"
    assert module.global_step == 1
