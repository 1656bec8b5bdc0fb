"""Checkpoints of real (tiny) trainings, read back without their teachers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ctsr_lightning.images import write_image
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from ctsr_lightning.training import training_cli
from ctsr_lightning.weights.reading import averages

pytestmark = pytest.mark.slow  # trainings before the first test

UNET = {"class_path": "ctsr_lightning.networks.nano_unet", "init_args": {"latent_channels": 8, "widths": [8, 16]}}
CODEC = {"class_path": "NanoCodec", "init_args": {"channels": 8, "width": 8, "weights": "work/codec/kept/last.ckpt"}}
STUDENT = {"class_path": "OneStepStudent", "init_args": {"unet": UNET, "codec": CODEC, "timestep": 250}}
TEACHER = {"class_path": "OneStepTeacher", "init_args": {"network": STUDENT}}
EQ_1 = {"perceptual": {"class_path": "TextureDistance"}}
STAGE_1 = {
    "class_path": STUDENT["class_path"],
    "init_args": STUDENT["init_args"] | {"weights": "work/one/kept/last.ckpt"},
}
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "codec": ("CodecTraining", {"codec": {"class_path": "NanoCodec", "init_args": {"channels": 8, "width": 8}}}),
    "one": ("OneStepTraining", {"student": STUDENT, "prior": UNET, "critic": UNET, "reconstruction": EQ_1}),
    "dual": ("CTSRStage1", {"student": STUDENT, "fidelity": TEACHER, "realness": TEACHER, "reconstruction": EQ_1}),
    "control": (
        "CTSRStage2",
        {
            "student": STAGE_1,
            "velocity": {"class_path": "VelocityField", "init_args": {"unet": UNET}},
            "fidelity": TEACHER,
            "z0_source": "reencode",
        },
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two steps of each training, in a folder `work` that weight paths are relative to; the modules by name."""
    root, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(root)
    for i in range(3):
        write_image(root / f"photos/{i}.png", torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(i)))
    modules: dict[str, Any] = {"root": root}
    for name, (training, arguments) in TRAININGS.items():
        folder = Path("work", name)
        callbacks = [
            {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(folder / "kept"), "save_last": True}},
            {"class_path": "EMA", "init_args": {"decay": 0.5}},
            {"class_path": "WeightsWriter"},
        ]
        settings = {
            "model": {"class_path": training, "init_args": arguments},
            "data": {
                "class_path": "RealESRGANDataModule",
                "init_args": {
                    "train": "photos", "crop": 32, "batch_size": 2, "val_split": 0, "num_workers": 0,
                    "samples_per_epoch": 4,
                },
            },
            "trainer": {
                "max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
                "limit_val_batches": 0, "callbacks": callbacks, "log_every_n_steps": 1,
                "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "work", "name": name, "version": ""}},
            },
        }  # fmt: skip
        config = root / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        modules[name] = training_cli(["fit", "--config", str(config)]).model
    yield modules
    os.chdir(before)


@pytest.fixture
def lq() -> torch.Tensor:
    return torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(9))


def averaged(module: Any, path: Path) -> Any:
    module.load_state_dict(averages(torch.load(path, weights_only=True)))
    return module.eval()


@pytest.mark.parametrize("name", ["one", "dual"])
@pytest.mark.parametrize("file", ["kept/last.ckpt", "weights.safetensors"])
def test_students(trained: dict[str, Any], lq: torch.Tensor, name: str, file: str) -> None:
    path = trained["root"] / "work" / name / file
    restorer = Restorer.from_pretrained(path, "cpu")
    assert not restorer.controllable
    module = averaged(trained[name], trained["root"] / "work" / name / "kept/last.ckpt")
    torch.testing.assert_close(restorer(lq), module.restore(lq), rtol=0, atol=0)


@pytest.mark.parametrize("file", ["kept/last.ckpt", "weights.safetensors"])
def test_stage_two(trained: dict[str, Any], lq: torch.Tensor, file: str) -> None:
    restorer = Restorer.from_pretrained(trained["root"] / "work/control" / file, "cpu")
    assert isinstance(restorer.model, TradeOff)
    assert restorer.model.z0_source == "reencode"
    module = averaged(trained["control"], trained["root"] / "work/control/kept/last.ckpt")
    for ours, theirs in zip(restorer(lq, [0.0, 0.5, 1.0]), module.sweep(lq, [0.0, 0.5, 1.0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_averages_are_preferred(trained: dict[str, Any]) -> None:
    path = trained["root"] / "work/dual/kept/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = "student.unet.conv_in.weight"
    assert not torch.equal(checkpoint["state_dict"][name], averages(checkpoint)[name])
    model = load_model(path)
    assert torch.equal(model.state_dict()[name.removeprefix("student.")], averages(checkpoint)[name])


def test_no_teacher_is_built(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from ctsr_lightning.teachers.base import Teacher

    monkeypatch.setattr(Teacher, "__init__", lambda *_: pytest.fail("a teacher was built"))
    assert isinstance(load_model(trained["root"] / "work/dual/kept/last.ckpt"), OneStepStudent)


def test_from_any_folder(
    trained: dict[str, Any], lq: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained["root"] / "work", tmp_path / "moved/work")
    monkeypatch.chdir(tmp_path)
    here = Restorer.from_pretrained("moved/work/control/kept/last.ckpt", "cpu")
    there = Restorer.from_pretrained(trained["root"] / "work/control/kept/last.ckpt", "cpu")
    assert torch.equal(here(lq, 1.0), there(lq, 1.0))


def test_missing_part(trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = shutil.copy(trained["root"] / "work/control/kept/last.ckpt", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'work/codec/kept/last.ckpt' in .*, found nothing"):
        load_model(Path(alone))


def test_checkpoint_of_another_training(trained: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected a checkpoint of a training with a student .* one of CodecTraining"):
        load_model(trained["root"] / "work/codec/kept/last.ckpt")


def test_files_that_are_no_checkpoint(trained: dict[str, Any], tmp_path: Path) -> None:
    whole = (trained["root"] / "work/dual/kept/last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    for name, message in (
        ("half", "cannot be read safely"),
        ("text", "cannot be read safely"),
        ("other", "without a 'state_dict'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / f"{name}.ckpt")
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_model(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        load_model(tmp_path)


def test_weights_without_their_configuration(trained: dict[str, Any], tmp_path: Path) -> None:
    alone = shutil.copy(trained["root"] / "work/dual/weights.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml beside"):
        load_model(Path(alone))


def test_weights_of_another_size(trained: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = torch.load(trained["root"] / "work/dual/kept/last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["student"]["init_args"]["unet"]["init_args"]["widths"] = [16, 16]
    torch.save(checkpoint, tmp_path / "edited.ckpt")
    with pytest.raises(ValueError, match=r"weights of OneStepStudent, .* others: .* in the file, .* in the network"):
        load_model(tmp_path / "edited.ckpt")


def test_settings_of_another_version(trained: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = torch.load(trained["root"] / "work/dual/kept/last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["student"]["init_args"]["colour"] = "red"
    torch.save(checkpoint, tmp_path / "edited.ckpt")
    with pytest.raises(ValueError, match=r"does not fit this version of ctsr_lightning[\s\S]*colour"):
        load_model(tmp_path / "edited.ckpt")
