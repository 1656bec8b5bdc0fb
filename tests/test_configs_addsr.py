"""AddSR's configurations, trained, tested and used through the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.models import FewStepStudent
from helpers.config_runs import CONFIGS, FULL, Events, ctsr, nano_words, toy_environment, train_and_use, written

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

PRIORS = {"nano/addsr": "nano/guided_prior", "addsr/distillation": "ccsr/guided_prior"}
TERMS = {"loss", "distill", "adv", "disc/real", "disc/fake"}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """A folder for the runs and what they need."""
    with toy_environment(tmp_path) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_prior_and_distillation_train_and_are_measured(environment: Path, name: str) -> None:
    nano = name.startswith("nano")
    words = nano_words("addsr") if nano else FULL
    ctsr("fit", CONFIGS / f"{PRIORS[name]}.yaml", *words, "--model.truth_as_guide", "0.5")
    train_and_use(CONFIGS / f"{name}.yaml", *words)
    prior, run = environment / "guided_prior", environment / name.split("/")[1]
    patterns = {"rec/grid", "rec/lattice", "rec/texture_distance"} if nano else set()
    assert Events(run).scalars("train/").keys() == {f"train/{term}" for term in TERMS | patterns}
    measured = Events(run).scalars("test/").keys()
    assert {f"test/{steps}/psnr_y" for steps in ("1 step", "2 steps", "3 steps", "4 steps")} < measured
    assert {f"test/psnr_y/t={t}" for t in ("0.00", "0.50", "1.00")} < measured
    assert "val/tradeoff" in Events(run).images()
    assert len(list((run / "restored").glob("*.png"))) == 2
    start, end = (load_file(folder / "weights.safetensors") for folder in (prior, run))
    part = "student.denoiser.unet." if nano else "student.denoiser.controlnet."
    assert all(key.startswith((part, "discriminator.heads.")) for key in end)  # neither teacher nor base nor codec
    assert start.keys() == {key for key in end if key.startswith("student.")}
    assert 0.0 < max(float((end[key] - value).abs().max()) for key, value in start.items()) < 1e-2
    model = load_model(run / "checkpoints" / "last.ckpt")
    assert isinstance(model, FewStepStudent)
    refine = 0.2 if nano else 0.5
    assert (model.timesteps, model.refine, model.method) == ((999, 749, 499, 249), refine, "AddSR")
    lq = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert model.restore(lq).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", PRIORS)
def test_student_and_teacher_start_as_the_prior(name: str) -> None:
    model = written(name)["model"]["init_args"]
    prior = written(PRIORS[name])["model"]["init_args"]["student"]["init_args"]
    parts = {part: model[part]["init_args"] for part in ("student", "teacher")}
    assert parts["student"].get("prompt") == prior.get("prompt")
    for settings in parts.values():
        assert settings["weights"].endswith("/guided_prior/weights.safetensors")
        for key in ("denoiser", "codec", "prediction"):
            assert settings[key] == prior[key]


def test_they_are_the_paper() -> None:
    for name in PRIORS:
        model = written(name)["model"]["init_args"]
        assert model["student"]["init_args"]["steps"] == [999, 749, 499, 249]
    config = written("addsr/distillation")
    assert config["model"]["init_args"]["step_weights"] == pytest.approx([0.5 * 2.1**p for p in range(4)])
    assert (config["model"]["init_args"]["lambda_adv"], config["model"]["init_args"]["forcing"]) == (0.02, "truth")
    assert config["trainer"]["max_steps"] == 50_000
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 2e-5
