"""CCSR's detail stage by its configurations: trained and used through the command line, and loaded by one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctsr_lightning.cli import main
from ctsr_lightning.codecs.codec import KLCodec
from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent, TradeOff
from ctsr_lightning.weights.shipped import shipped_folder
from helpers.config_runs import CONFIGS, FEW, Events, nano_words, train_and_use, write_base, write_dino, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shipped_folder() / "stage2").is_dir(), reason="a copy without the shipped weights"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

LQ = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TERMS = {"rec/l1", "adv", "disc/real", "disc/fake"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """No LPIPS weights anywhere, so that stand-ins take their place on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield patch


@pytest.fixture(scope="module")
def nano(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano's detail stage, on the shipped model: trained, tested and used."""
    runs = tmp_path_factory.mktemp("nano")
    environment.setenv("CTSR_RUNS", str(runs))
    words = [*nano_words("detail", steps=3), "--model.adversarial_after", "1"]
    train_and_use(CONFIGS / "nano" / "detail.yaml", *words)
    return runs / "detail"


def test_nano_trains_and_is_measured(nano: Path) -> None:
    events = Events(nano)
    trained = events.scalars("train/")
    assert trained.keys() == {
        f"train/{term}" for term in TERMS | {"rec/texture_distance", "rec/grid", "rec/lattice", "loss"}
    }
    assert [value == 0.0 for value in trained["train/adv"].values()] == [True, False, False]
    assert {f"test/psnr_y/t={t}" for t in ("0.00", "0.50", "1.00")} < events.scalars("test/").keys()
    assert "val/tradeoff" in events.images()
    assert len(list((nano / "restored").glob("*.png"))) == 2
    saved = load_file(nano / "weights.safetensors")
    assert {name.split(".")[0] for name in saved} == {"codec", "discriminator"}
    assert all(name.startswith("codec.decoder.") for name in saved if name.startswith("codec."))
    checkpoint = torch.load(nano / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == saved.keys()


@pytest.mark.parametrize("file", ["weights.safetensors", "checkpoints/last.ckpt"])
def test_what_it_leaves_is_a_model(nano: Path, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found, shipped = load_model(nano / file), load_model(shipped_folder() / "stage2" / "weights.safetensors")
    assert isinstance(found, TradeOff)
    state = found.begin(found.shared(LQ))
    assert torch.equal(state, shipped.begin(shipped.shared(LQ)))
    trained = load_file(nano / "weights.safetensors")
    assert all(torch.equal(value, trained[f"codec.{name}"]) for name, value in found.codec.state_dict().items()
               if name.startswith("decoder."))  # fmt: skip
    for t in (0.0, 0.5, 1.0):
        assert not torch.equal(found.at(state, t), shipped.at(state, t))


def test_any_configuration_loads_it_by_one_line(nano: Path, tmp_path: Path) -> None:
    shutil.copytree(shipped_folder(), tmp_path / "nano")
    config = tmp_path / "nano" / "stage2" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["model"]["init_args"]["student"]["init_args"]["codec"]["init_args"]["decoder"] = str(
        nano / "weights.safetensors"
    )
    config.write_text(yaml.safe_dump(settings))
    line, whole = (
        Restorer.from_pretrained(path, "cpu") for path in (tmp_path / "nano" / "stage2", nano / "weights.safetensors")
    )
    for one, two in zip(line(LQ, [0.0, 0.5, 1.0]), whole(LQ, [0.0, 0.5, 1.0]), strict=True):
        assert torch.equal(one, two)
    line.save_pretrained(tmp_path / "line")
    whole.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "nano")
    for name in ("line", "whole"):
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
        again = Restorer.from_pretrained(tmp_path / f"moved_{name}", "cpu")
        assert torch.equal(again(LQ, 0.5), whole(LQ, 0.5))
        assert not any("discriminator" in key for key in load_file(tmp_path / f"moved_{name}" / "weights.safetensors"))


def test_the_commands_take_it(nano: Path, tmp_path: Path) -> None:
    model = ["--checkpoint", str(nano / "weights.safetensors"), "--device", "cpu"]
    write_image(tmp_path / "lq" / "a.png", LQ[0])
    write_image(tmp_path / "gt" / "a.png", torch.rand(3, 64, 64))
    main(["upscale", str(tmp_path / "lq"), str(tmp_path / "up"), *model, "--control", "0.5"])
    (restored,) = (tmp_path / "up").rglob("*.png")
    expected = Restorer.from_pretrained(nano, "cpu")(read_image(tmp_path / "lq" / "a.png"), 0.5)
    torch.testing.assert_close(read_image(restored), expected, atol=0.51 / 255, rtol=0)
    pairs = ["--lq", str(tmp_path / "lq"), "--gt", str(tmp_path / "gt")]
    main(["sweep", *pairs, *model, "--metrics", "psnr", "--output", str(tmp_path / "sweep")])
    assert (tmp_path / "sweep" / "tradeoff.csv").is_file()
    folders = [str(tmp_path / "lq"), str(tmp_path / "gt")]
    main(["evaluate", *folders, *model, "--metrics", "psnr", "--output", str(tmp_path / "evaluate")])
    assert (tmp_path / "evaluate" / "summary.json").is_file()


@pytest.fixture(scope="module")
def full(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full size over a Stable Diffusion and a DINO of toy size."""
    folder = tmp_path_factory.mktemp("full")
    for name, value in {
        "CTSR_RUNS": folder,
        "CTSR_BASE": write_base(folder / "base"),
        "CTSR_BASE_KIND": "any",
        "CTSR_DINO": write_dino(folder / "dino"),
    }.items():
        environment.setenv(name, str(value))
    words = [*FEW, "--data.train", "null", "--data.val", "null", "--trainer.max_steps", "2"]
    words += ["--trainer.accumulate_grad_batches", "1", "--trainer.precision", "32-true"]
    words += ["--model.reconstruction.perceptual", "ctsr_lightning.metrics.texture.TextureDistance"]
    words += ["--model.adversarial_after", "1", "--model.student.weights", "null"]
    train_and_use(CONFIGS / "ccsr" / "detail.yaml", *words)
    return folder / "detail"


def test_full_size_trains_and_is_loaded(full: Path) -> None:
    trained = Events(full).scalars("train/")
    assert trained.keys() == {f"train/{term}" for term in TERMS | {"rec/texture_distance", "loss"}}
    found = load_model(full / "weights.safetensors")
    assert isinstance(found, OneStepStudent)
    assert isinstance(found.codec, KLCodec)
    saved = load_file(full / "weights.safetensors")
    name = "autoencoder.decoder.conv_out.weight"
    base = load_file(full.parent / "base" / "vae" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(found.codec.state_dict()[name], saved[f"codec.{name}"])
    assert not torch.equal(saved[f"codec.{name}"], base["decoder.conv_out.weight"])
    assert found.restore(LQ).shape == (1, 3, 64, 64)


def test_full_size_is_ccsr() -> None:
    config = written("ccsr/detail")
    model, trainer = config["model"]["init_args"], config["trainer"]
    rec = model["reconstruction"]
    assert [rec["lambda_l1"], rec["lambda_lpips"], rec["lambda_l2"]] == [1, 1, 0]  # paper
    assert [model[name] for name in ("lambda_adv", "lambda_disc", "adaptive")] == [0.5, 0.5, True]
    assert (trainer["max_steps"], trainer["accumulate_grad_batches"]) == (2000, 64)
    stage2 = written("ctsr/stage2")["model"]["init_args"]["student"]["init_args"]
    assert model["student"]["init_args"] == stage2 | {"gradient_checkpointing": True}
