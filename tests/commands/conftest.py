"""A stage-2 and a stage-1 checkpoint with random weights, as the trainings write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ctsr_lightning.codecs.codec import NanoCodec
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.networks.latent_resshift import LatentResShift
from ctsr_lightning.networks.nano import nano_unet
from ctsr_lightning.networks.velocity import VelocityField

UNET = {
    "class_path": "ctsr_lightning.networks.nano.nano_unet",
    "init_args": {"latent_channels": 8, "widths": [8, 16]},
}
CODEC = {"class_path": "ctsr_lightning.codecs.codec.NanoCodec", "init_args": {"channels": 8, "width": 8}}


def write_checkpoint(path: Path, *, controllable: bool) -> Path:
    torch.manual_seed(0)
    student = OneStepStudent(nano_unet(8, widths=(8, 16)), NanoCodec(8, 8), timestep=250)
    velocity = VelocityField(nano_unet(8, widths=(8, 16)))
    torch.nn.init.normal_(velocity.head.weight, std=0.3)
    unet = {f"unet.{k}": v for k, v in student.unet.state_dict().items()}
    torch.save({"state_dict": {f"student.{k}": v for k, v in unet.items()}}, path.with_suffix(".base"))
    init_args: dict[str, Any] = {"unet": UNET, "codec": CODEC, "timestep": 250}
    config: dict[str, Any] = {"_class_path": "ctsr_lightning.modules.stage1.CTSRStage1"}
    if controllable:
        config = {"_class_path": "ctsr_lightning.modules.stage2.CTSRStage2", "z0_source": "latent"}
        config["velocity"] = {
            "class_path": "ctsr_lightning.networks.velocity.VelocityField",
            "init_args": {"unet": UNET},
        }
        init_args |= {"weights": path.with_suffix(".base").name}
        state = {f"velocity.{k}": v for k, v in velocity.state_dict().items()}
    else:
        state = {f"student.{k}": v for k, v in unet.items()}
    config["student"] = {"class_path": "ctsr_lightning.models.student.OneStepStudent", "init_args": init_args}
    torch.save({"state_dict": state, "hyper_parameters": config}, path)
    return path


@pytest.fixture(scope="session")
def stage2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("models") / "stage2.ckpt", controllable=True))


@pytest.fixture(scope="session")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("models") / "stage1.ckpt", controllable=False))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stage-2 checkpoint that names its teachers: T_f walks a chain with noise, T_r is the student itself."""
    path = write_checkpoint(tmp_path_factory.mktemp("models") / "taught.ckpt", controllable=True)
    torch.manual_seed(1)
    unet = nano_unet(8, 16, widths=(8, 16))
    network = LatentResShift(unet, NanoCodec(8, 8))
    state = {f"network.unet.{k}": v for k, v in network.unet.state_dict().items()}
    torch.save({"state_dict": state}, path.with_suffix(".shift"))
    checkpoint = torch.load(path, weights_only=True)
    config = checkpoint["hyper_parameters"]
    shift_unet = {**UNET, "init_args": {**UNET["init_args"], "in_channels": 16}}
    config["fidelity"] = {
        "class_path": "ctsr_lightning.teachers.ResShiftTeacher",
        "init_args": {
            "network": {
                "class_path": "ctsr_lightning.networks.latent_resshift.LatentResShift",
                "init_args": {"unet": shift_unet, "codec": CODEC, "weights": path.with_suffix(".shift").name},
            }
        },
    }
    config["realness"] = {
        "class_path": "ctsr_lightning.teachers.OneStepTeacher",
        "init_args": {"network": config["student"]},
    }
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture
def shipped(taught: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of generated weights in the place of the shipped one: the networks of `taught`."""
    folder = tmp_path / "shipped" / "nano"
    checkpoint = torch.load(taught, weights_only=True)
    config = dict(checkpoint["hyper_parameters"])
    states = {"stage2": checkpoint["state_dict"]}
    for name, suffix in (("stage1", ".base"), ("fidelity_teacher", ".shift")):
        states[name] = torch.load(Path(taught).with_suffix(suffix), weights_only=True)["state_dict"]
    for name, state in states.items():
        (folder / name).mkdir(parents=True)
        save_file({key: value.half() for key, value in state.items()}, folder / name / "weights.safetensors")
    text = yaml.safe_dump({"model": {"class_path": config.pop("_class_path"), "init_args": config}})
    for name, suffix in (("stage1", "base"), ("fidelity_teacher", "shift")):
        text = text.replace(f"taught.{suffix}", f"{name}/weights.safetensors")
    (folder / "stage2" / "config.yaml").write_text(text)
    monkeypatch.setattr("ctsr_lightning.weights.shipped.shipped_folder", lambda: folder)
    return folder
