"""Published weight files of ResShift and SinSR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import nn

from ctsr_lightning.weights.reading import load_strictly, read_state_dict
from ctsr_lightning.weights.search import MissingWeightsError, find_weights

_MARKS: Final = {
    "quantize.embedding.weight": "a VQ autoencoder (ResShift's `autoencoder_vq_f4.pth`)",
    "input_blocks.0.0.weight": "a denoiser (ResShift's `resshift_realsrx4_*.pth`, `SinSR_*.pth`)",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "an autoencoder in the layout of diffusers, not the published one",
}
"""Kinds of files by a name that only they have."""


def load_resshift_file(network: nn.Module, path: Path, kind: str, names: Mapping[str, str] | None = None) -> None:
    """Load a published weight file into a network on `meta`, strictly; half precision becomes float32.

    Args:
        network: The network.
        path: The file, `.pth` or `.safetensors`, perhaps with prefixes of DistributedDataParallel or torch.compile.
        kind: The kind of network, for messages: "a denoiser".
        names: Names in the file by the network's names; None for equal ones. Linear layers of networks with other names
            are 1x1 convolutions in the file.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it cannot be read, or its names or shapes differ; the message lists the first differences.
    """
    expected = f"the weights of {kind}"
    try:
        found = find_weights(path)
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"Expected {expected} at '{path}', found none. They are published under a non-commercial licence and do "
            "not come with this package: download them from the authors' release page, or correct the path."
        ) from error
    state = read_state_dict(found, expected)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    own = network.state_dict()
    for name, key in (names or {}).items():
        if own[name].dim() == 2 and key in state and state[key].shape[2:] == (1, 1):
            state[key] = state[key].flatten(1)
    like = next((f"It looks like {kind}. " for mark, kind in _MARKS.items() if mark in state), "")
    remedy = f"{like}Name the published file that belongs here, or set the architecture of this one."
    load_strictly(network, state, found, names=names, expected=expected, remedy=remedy, assign=True)


def published_name(name: str, resolutions: int) -> str:
    """Translate the name of a weight of diffusers' VQModel to the published one (latent diffusion's).

    Args:
        name: The name in the state dict of VQModel.
        resolutions: Resolutions of the autoencoder; the published decoder counts its blocks from the last one.
    """
    parts = name.split(".")
    if parts[0] not in {"encoder", "decoder"}:
        return name
    side, block, *rest = parts
    if block in {"down_blocks", "up_blocks"}:
        level = int(rest[0]) if block == "down_blocks" else resolutions - 1 - int(rest[0])
        kind, number, *tail = rest[1:]
        inner = {"resnets": f"block.{number}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
        tail = ["nin_shortcut" if part == "conv_shortcut" else part for part in tail]
        return ".".join((side, block.removesuffix("_blocks"), str(level), inner, *tail))
    if block == "mid_block" and rest[0] == "resnets":
        return ".".join((side, "mid", f"block_{int(rest[1]) + 1}", *rest[2:]))
    if block == "mid_block":
        attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        return ".".join((side, "mid", "attn_1", attention[rest[2]], rest[-1]))
    return ".".join((side, {"conv_norm_out": "norm_out"}.get(block, block), *rest))
