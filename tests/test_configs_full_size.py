"""The full-size configurations, as they are shipped, over a Stable Diffusion of toy size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from config_runs import CONFIGS, FEW, Events, ctsr, use, write_base
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.training import training_cli

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

FULL = CONFIGS / "ctsr"
HERE = [*FEW, "--data.batch_size", "1", "--data.train", "null", "--data.val", "null"]
"""Small crops of the sample photos."""
STAND_IN = {"class_path": "ctsr_lightning.metrics.texture.TextureDistance"}


def small_shift(prefix: str) -> list[str]:
    """Options that make the UNet of T_f small, the one part that is not read from a folder."""
    options = {"block_out_channels": "[8,8,8,8]", "norm_num_groups": "4", "attention_head_dim": "4"}
    return [word for name, value in options.items() for word in (f"--model.{prefix}network.unet.{name}", value)]


def stage_words(stage: str, steps: int) -> list[str]:
    """Options that bring a full-size stage here."""
    stand_in = ["--model.perceptual", STAND_IN["class_path"]] if stage == "stage1" else []
    return [*HERE, *small_shift("fidelity."), *stand_in, "--trainer.max_steps", str(steps)]


def train_teachers(folder: Path) -> None:
    """Train both teachers as the comments in the configurations say: with the same blocks, by this package."""
    settings: dict[str, Any] = yaml.safe_load((FULL / "stage1.yaml").read_text())
    stage = settings["model"]["init_args"]
    shift, student = stage["fidelity"]["init_args"]["network"], stage["student"]
    for network in (shift, student):
        network["init_args"].pop("weights")
    prior = student["init_args"]["unet"]
    one_step = {"student": student, "prior": prior, "critic": prior, "critic_lora": {"rank": 4}, "perceptual": STAND_IN}
    models = {
        "fidelity_teacher": ({"class_path": "ResidualShift", "init_args": {"network": shift}}, small_shift("")),
        "realness_teacher": ({"class_path": "OneStep", "init_args": one_step}, []),
    }
    for name, (model, words) in models.items():
        settings["model"] = model
        settings["data"] = str(CONFIGS / "data" / "ctsr.yaml")
        settings["trainer"]["logger"]["init_args"]["name"] = name
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        ctsr("fit", folder / f"{name}.yaml", *HERE, *words, "--trainer.max_steps", "2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both teachers and both stages: trained, resumed, tested and used."""
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))  # no LPIPS weights
        patch.setenv("CTSR_RUNS", str(folder))
        patch.setenv("CTSR_BASE", str(write_base(folder / "base")))
        patch.setenv("CTSR_BASE_KIND", "any")
        patch.setenv("CTSR_REALNESS", str(folder / "realness_teacher" / "weights.safetensors"))
        patch.setenv("CTSR_FIDELITY", str(folder / "fidelity_teacher" / "weights.safetensors"))
        train_teachers(folder)
        for stage in ("stage1", "stage2"):
            config = FULL / f"{stage}.yaml"
            ctsr("fit", config, *stage_words(stage, 2))
            use(config, folder / stage, *stage_words(stage, 3))
        yield folder


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_it_trains_in_half_precision_and_is_measured(runs: Path, stage: str) -> None:
    events = Events(runs / stage)
    for values in events.scalars("train/").values():
        assert len(values) == 3
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())
    metric = "val/texture_distance" if stage == "stage1" else "val/texture_distance/t=0.50"
    assert metric in events.scalars("val/")
    assert "val/T_f/psnr_y" in events.scalars("val/")
    assert "val/images" in events.images()
    photos = sorted((runs / stage / "restored").glob("*.png"))
    assert len(photos) == 2
    with Image.open(photos[0]) as image:
        assert image.size == (64, 64)


def test_a_checkpoint_holds_what_is_trained(runs: Path) -> None:
    state = torch.load(runs / "stage1" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = state["state_dict"]
    base = {name for name in weights if "lora_" not in name}
    assert base == {f"student.unet.conv_in.base_layer.{part}" for part in ("weight", "bias")}  # as OSEDiff
    parts = {"unet": "default_decoder", "codec.autoencoder.encoder": "default_encoder"}
    for part, adapter in parts.items():
        assert any(name.startswith(f"student.{part}.") and adapter in name for name in weights)
    # The weights, their averages and AdamW's two moments: nothing of base, teachers, prompts or metrics.
    trained = sum(value.numel() for value in weights.values())
    assert sum(value.numel() for value in tensors(state) if value.dim() > 0) == 4 * trained
    assert load_file(runs / "stage1" / "weights.safetensors").keys() == weights.keys()

    velocity = torch.load(runs / "stage2" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in velocity} == {"velocity"}
    assert {name for name in velocity if ".velocity." not in name} == {"velocity.head.weight", "velocity.head.bias"}


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def test_stage_1_starts_as_the_realness_teacher(runs: Path) -> None:
    terms = Events(runs / "stage1").scalars("train/")
    assert terms["train/realness/align"][0] == 0.0
    assert min(terms["train/fidelity/align"][0], terms["train/realness/prior"][0]) > 0.0


def test_stage_2_starts_from_stage_1(runs: Path) -> None:
    stages = [Events(runs / stage).scalars("test/") for stage in ("stage1", "stage2")]
    for metric in ("psnr_y", "ssim_y", "texture_distance"):
        before, after = stages[0][f"test/{metric}"], stages[1][f"test/{metric}/t=0.00"]
        assert after == pytest.approx(before, rel=1e-5)


def test_the_product_restores_without_a_trainer(runs: Path) -> None:
    lq = torch.rand(3, 20, 24)
    restorer = Restorer.from_checkpoint(runs / "stage2" / "checkpoints" / "last.ckpt", "cpu")
    ends = restorer(lq, [0.0, 1.0])
    assert [tuple(end.shape) for end in ends] == [(3, 80, 96)] * 2
    one = Restorer.from_checkpoint(runs / "stage1" / "weights.safetensors", "cpu")
    assert torch.equal(one(lq), ends[0])


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("CTSR_BASE", "Expected a model folder in diffusers' layout at './models/stable-diffusion-2-1-base'"),
        ("CTSR_REALNESS", "weight file (.safetensors, .ckpt or .pkl) at 'runs/ctsr/realness_teacher/weights"),
        ("CTSR_FIDELITY", "weight file (.safetensors, .ckpt or .pkl) at 'runs/ctsr/fidelity_teacher/weights"),
    ],
)
def test_what_was_not_set_is_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(variable)
    with pytest.raises(Exception, match="Expected a") as caught:
        training_cli(["--config", str(FULL / "stage1.yaml"), *stage_words("stage1", 2)], run=False)
    assert message in str(caught.value)
