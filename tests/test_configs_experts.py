"""Experts from files through the command line: in both places of stage 2, and distilled, with a cache."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctsr_lightning.cli import main
from ctsr_lightning.teachers import ExpertTeacher
from ctsr_lightning.weights.shipped import shipped_folder
from helpers import tiny_experts
from helpers.config_runs import CONFIGS, FEW, QUIET, Events, ctsr, nano_words

EXPERT = str(CONFIGS / "teacher" / "expert.yaml")
START = shipped_folder() / "realness_teacher" / "weights.safetensors"
OWN_SIZE = shlex.split("--data.crop 64 --data.val_crop 64")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained networks that come with the package, an expert of toy size, and a folder for results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("CTSR_RUNS", str(shipped_folder()))
    monkeypatch.setenv("CTSR_EXPERT", str(tiny_experts.saved(tmp_path / "expert.pth")))
    return tmp_path / "runs"


def saved_in(runs: Path, name: str) -> list[str]:
    return ["--trainer.logger.init_args.save_dir", str(runs), "--trainer.logger.init_args.name", name]


@pytest.mark.slow
def test_stage_2_takes_an_expert_as_both_teachers(runs: Path) -> None:
    words = ["--model.fidelity", EXPERT, "--model.realness", EXPERT, *nano_words("stage2"), *OWN_SIZE]
    ctsr("fit", CONFIGS / "nano" / "stage2.yaml", *words, *saved_in(runs, "stage2"))
    measured = Events(runs / "stage2").scalars("val/")
    assert measured["val/T_f/psnr_y"] == measured["val/T_r/psnr_y"]
    assert Events(runs / "stage2").scalars("train/").keys() == {"train/velocity/match", "train/rec/grid", "train/loss"}
    assert all(name.startswith("velocity.") for name in load_file(runs / "stage2" / "weights.safetensors"))


@pytest.mark.slow
def test_an_expert_is_distilled_with_and_without_a_cache(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS / "nano" / "realness_teacher.yaml"
    words = [f"--model.target={EXPERT}"]
    words += [f"--model.student.unet.weights={START}", *shlex.split("--trainer.max_steps 2"), *FEW, *OWN_SIZE]
    words += ["--data.pool", "4", "--model.scheduler.total_steps", "9", "--model.scheduler.warmup_steps", "1"]
    ctsr("fit", config, *words, *saved_in(runs, "plain"))
    pairs = [word for word in words if word.startswith("--model.") and "=" in word]
    options = " ".join([*(word.removeprefix("--") for word in pairs), "data.crop=64", "data.val_crop=64"])
    options += " data.pool=4 data.batch_size=2 data.samples_per_epoch=8 data.num_workers=0"
    kept = ["cache", "--config", str(config), "--output", "kept", "--device", "cpu"]
    main([*kept, "--options", options])
    out = capsys.readouterr().out
    assert "train: 4 computed" in out
    assert "val: " not in out  # the pictures there are the target's own
    assert "without T_f" not in out
    (command,) = [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  ctsr fit")]
    assert {"--model.cache=kept", "--data.pool=4"} <= set(command)
    main([*kept, "--options", options])
    assert "train: 0 computed, 4 were there." in capsys.readouterr().out

    def refuse(*args: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(ExpertTeacher, "restore", refuse)
    short = ["--trainer.max_steps", "2", "--model.scheduler.total_steps", "9", "--model.scheduler.warmup_steps", "1"]
    main([*command, *QUIET, *short, "--trainer.limit_val_batches", "0", *saved_in(runs, "cached")])
    plain, cached = (Events(runs / name).scalars("train/") for name in ("plain", "cached"))
    assert plain.keys() == {f"train/{t}" for t in ("loss", "rec/l1", "rec/texture_distance", "rec/grid", "rec/lattice")}
    assert plain == cached
    weights = [load_file(runs / name / "weights.safetensors") for name in ("plain", "cached")]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
    assert "val/target/psnr_y" in Events(runs / "plain").scalars("val/")


def test_a_cache_of_a_one_step_without_target_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del runs
    config = str(CONFIGS / "nano" / "realness_teacher.yaml")
    options = f"model.student.unet.weights={START}"
    with pytest.raises(SystemExit):
        main(["cache", "--config", config, "--options", options])
    assert (
        "or of OneStepTraining with a target, in --config, found one of OneStepTraining without."
        in capsys.readouterr().err
    )
