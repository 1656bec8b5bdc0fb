"""CCSR's configurations, trained, tested and used through the command line."""

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

WORDS = {"nano": nano_words("structure"), "ccsr": FULL}
TERMS = {"train/loss", "train/structure/start", "train/structure/jump", "train/structure/denoise"}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """A folder for the runs and what they need."""
    with toy_environment(tmp_path) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("size", WORDS)
def test_prior_and_structure_train_and_are_measured(environment: Path, size: str) -> None:
    ctsr("fit", CONFIGS / size / "guided_prior.yaml", *WORDS[size])
    train_and_use(CONFIGS / size / "structure.yaml", *WORDS[size])
    prior, structure = environment / "guided_prior", environment / "structure"
    assert Events(prior).scalars("train/").keys() == {"train/loss", "train/prior/denoise"}
    assert Events(prior).scalars("val/").keys() == {"val/loss", "val/prior/denoise"}
    assert Events(structure).scalars("train/").keys() == TERMS
    measured = Events(structure).scalars("test/").keys()
    assert {f"test/{name}/psnr_y" for name in ("1 step", "2 steps", "3 steps", "4 steps")} < measured
    assert {f"test/psnr_y/t={t}" for t in ("0.00", "0.50", "1.00")} < measured
    assert "val/tradeoff" in Events(structure).images()
    assert len(list((structure / "restored").glob("*.png"))) == 2
    start, end = (load_file(folder / "weights.safetensors") for folder in (prior, structure))
    assert start.keys() == end.keys()
    change = max(float((value - start[name]).abs().max()) for name, value in end.items())
    assert 0.0 < change < 1e-2
    part = {"nano": "student.denoiser.unet.", "ccsr": "student.denoiser.controlnet."}[size]
    assert all(name.startswith(part) for name in end)  # of the full size neither base nor codec
    model = load_model(structure / "checkpoints" / "last.ckpt")
    assert isinstance(model, FewStepStudent)
    assert model.timesteps == (999, 667)
    lq = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert model.restore(lq).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("size", ["nano", "ccsr"])
def test_structure_starts_as_the_prior(size: str) -> None:
    prior, structure = (
        written(f"{size}/{name}")["model"]["init_args"]["student"] for name in ("guided_prior", "structure")
    )
    one, two = prior["init_args"], structure["init_args"]
    assert two.pop("weights").endswith("/guided_prior/weights.safetensors")
    for settings in (one, two):
        settings.pop("steps")
        settings.pop("between", None)
    assert one == two


def test_full_size_is_the_paper() -> None:
    prior, structure = (written(f"ccsr/{name}") for name in ("guided_prior", "structure"))
    model = structure["model"]["init_args"]
    assert model["student"]["init_args"]["steps"] == [999, 667]
    assert round(model["t_max"] * 1000) == 667
    assert [model[f"lambda_{name}"] for name in ("start", "jump", "denoise")] == [1, 1, 1]
    assert (prior["trainer"]["max_steps"], structure["trainer"]["max_steps"]) == (40_000, 20_000)
    for config in (prior, structure):
        assert config["trainer"]["accumulate_grad_batches"] == 96
        assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 5e-5
