"""Checkpoints with random weights: nano's layout and, over a Stable Diffusion of toy size, the full-size layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ctsr_lightning.codecs import KLCodec, NanoCodec
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.networks import LoRA, VelocityField, load_autoencoder, load_unet, nano_unet
from helpers import tiny
from helpers.config_runs import write_base

NANO_UNET = {"class_path": "ctsr_lightning.networks.nano_unet", "init_args": {"latent_channels": 4, "widths": [8, 16]}}
NANO_CODEC = {"class_path": "NanoCodec", "init_args": {"channels": 4, "width": 8}}


def trained(network: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """What a training of a network would write: random values of its trainable weights."""
    tiny.shaken(network, 0.05)
    return {f"{prefix}.{name}": p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def write(path: Path, training: str, parts: dict[str, Any], *states: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint of a training."""
    weights = {name: value for state in states for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "hyper_parameters": {"_class_path": training, **parts}}, path)
    return path


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-2 checkpoint of nano's layout; student and codec are read from files beside it."""
    folder = tmp_path_factory.mktemp("nano")
    torch.manual_seed(0)
    codec = NanoCodec(4, 8)
    state = trained(codec, "codec")
    write(folder / "codec.ckpt", "CodecTraining", {}, state)
    student = OneStepStudent(nano_unet(4, widths=(8, 16)), codec)
    write(folder / "student.ckpt", "CTSRStage1", {}, trained(student, "student"))
    velocity = VelocityField(nano_unet(4, widths=(8, 16)), condition_on_lq=True)
    codec_arguments = {**NANO_CODEC["init_args"], "weights": "codec.ckpt"}
    arguments = {
        "unet": NANO_UNET, "codec": {**NANO_CODEC, "init_args": codec_arguments}, "timestep": 250,
        "weights": "student.ckpt",
    }  # fmt: skip
    parts = {
        "student": {"class_path": "ctsr_lightning.models.OneStepStudent", "init_args": arguments},
        "velocity": {
            "class_path": "ctsr_lightning.networks.VelocityField",
            "init_args": {"unet": NANO_UNET, "condition_on_lq": True},
        },
        "z0_source": "latent",
    }
    return write(folder / "stage2.ckpt", "ctsr_lightning.modules.CTSRStage2", parts, trained(velocity, "velocity"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of toy size."""
    return write_base(tmp_path_factory.mktemp("base") / "sd")


def full_size(folder: Path, base: Path, *, stage: int = 2, z0_source: str = "latent", **options: Any) -> Path:
    """A checkpoint of the full-size layout: adapters of student, encoder and velocity over one base."""
    torch.manual_seed(0)
    lora = LoRA(**options.pop("lora", {}))
    student = OneStepStudent(
        load_unet(str(base), expect="any"), KLCodec(load_autoencoder(str(base), expect="any")), lora=lora,
        encoder_lora=lora,
    )  # fmt: skip
    network = {"path": str(base), "expect": "any", "share": True}
    autoencoder = {"class_path": "ctsr_lightning.networks.load_autoencoder", "init_args": network}
    unet = {"class_path": "ctsr_lightning.networks.load_unet", "init_args": network}
    adapters = {"rank": lora.rank, "alpha": lora.alpha}
    arguments = {
        "unet": unet,
        "codec": {"class_path": "KLCodec", "init_args": {"autoencoder": autoencoder}},
        "lora": adapters,
        "encoder_lora": adapters,
        "prompt": {"class_path": "TextPrompt", "init_args": {"path": str(base), "text": "a"}},
        **options,
    }
    named = {"student": {"class_path": "ctsr_lightning.models.OneStepStudent", "init_args": arguments}}
    state = trained(student, "student")
    if stage == 1:
        return write(folder / "stage1.ckpt", "ctsr_lightning.modules.CTSRStage1", named, state)
    write(folder / "stage1.ckpt", "ctsr_lightning.modules.CTSRStage1", {}, state)
    arguments["weights"] = str(folder / "stage1.ckpt")
    velocity = VelocityField(load_unet(str(base), expect="any"), lora=LoRA())
    field = {"class_path": "ctsr_lightning.networks.VelocityField", "init_args": {"unet": unet, "lora": {"rank": 4}}}
    named |= {"velocity": field, "velocity_start": "student", "z0_source": z0_source}
    return write(folder / "stage2.ckpt", "ctsr_lightning.modules.CTSRStage2", named, trained(velocity, "velocity"))


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A stage-2 checkpoint of the full-size layout."""
    return full_size(tmp_path_factory.mktemp("full"), base)
