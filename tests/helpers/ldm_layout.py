"""Toy base models in diffusers' layout and in that of the original Stable Diffusion files, written from its names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers import tiny

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def original_unet(state: dict[str, Tensor], layers: int, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """A UNet's tensors; `layers` is its layers_per_block."""
    attends = {name.split(".attentions")[0] for name in state if ".attentions." in name}
    return {prefix + _unet_name(name, layers, attends): tensor for name, tensor in state.items()}


def _unet_name(name: str, layers: int, attends: set[str]) -> str:
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
        side, block, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            place = 2 if f"up_blocks.{block}" in attends else 1
            return f"output_blocks.{block * (layers + 1) + layers}.{place}.{rest}"
        first = f"input_blocks.{1 + block * (layers + 1) + index}" if side == "down" else ""
        first = first or f"output_blocks.{block * (layers + 1) + index}"
        return f"{first}.0.{_resnet(rest)}" if kind == "resnets" else f"{first}.1.{rest}"
    for own, original in ENDS.items():
        if name.startswith(own + "."):
            rest = name.removeprefix(own + ".")
            return f"{original}.{_resnet(rest) if 'resnets' in own else rest}"
    raise AssertionError(name)


def _resnet(rest: str) -> str:
    layer, _, kind = rest.partition(".")
    return f"{RESNET[layer]}.{kind}"


def original_autoencoder(
    state: dict[str, Tensor], blocks: int, prefix: str = "first_stage_model."
) -> dict[str, Tensor]:
    """An autoencoder's tensors; its attention is made of 1x1 convolutions there."""
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out").replace("group_norm", "norm")
            new = new.replace("mid_block.attentions.0.to_", "mid.attn_1.").replace(
                "mid_block.attentions.0", "mid.attn_1"
            )
        convolution = "mid.attn_1" in new and tensor.dim() == 2
        renamed[prefix + new] = tensor[:, :, None, None] if convolution else tensor
    return renamed


def toy_networks() -> dict[str, Any]:
    """A UNet and an autoencoder of toy size."""
    return {"unet": tiny.prompted_unet(), "autoencoder": tiny.autoencoder()}


def write_model(folder: Path, networks: dict[str, Any]) -> Path:
    """Write a model's folder in diffusers' layout, without a scheduler."""
    networks["unet"].save_pretrained(folder / "unet")
    networks["autoencoder"].save_pretrained(folder / "vae")
    return folder


def whole_model(networks: dict[str, Any]) -> dict[str, Tensor]:
    """Both in the original layout, and what such files hold besides."""
    state = {
        **original_unet(networks["unet"].state_dict(), layers=1),
        **original_autoencoder(networks["autoencoder"].state_dict(), blocks=3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1),
        "betas": torch.zeros(2),
    }
    return {k: v.clone() for k, v in state.items()}


def describe_scheduler(folder: Path, prediction: str) -> None:
    """Write what a model's UNet predicts."""
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))


def assert_equal(loaded: nn.Module, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """The loaded network has the other's weights in a precision, in memory and ready to train."""
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[k], v.to(dtype)) and state[k].dtype == dtype for k, v in network.state_dict().items())
    assert not any(p.is_meta for p in [*loaded.parameters(), *loaded.buffers()])
    assert all(p.requires_grad for p in loaded.parameters())
    assert loaded.training
