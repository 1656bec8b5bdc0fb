"""Published weight files at toy size: the layouts are the published ones, the numbers are random."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ctsr_lightning.weights.resshift_files import published_name
from helpers import adapter_files, tiny_resshift


def write_osediff(base: Path, path: Path) -> Path:
    """Write an `osediff.pkl` for a base in diffusers' layout."""
    unet, autoencoder = _parts(base)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(adapter_files.osediff(unet, autoencoder), path)
    return path


def write_pisa(base: Path, path: Path) -> Path:
    """Write a `pisa_sr.pkl` for a base in diffusers' layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(adapter_files.pisa(_parts(base)[0]), path)
    return path


def write_resshift(unet: Path, autoencoder: Path) -> None:
    """Write ResShift's or SinSR's denoiser, and the autoencoder of both, with the sizes of `tiny_resshift`."""
    network = tiny_resshift.resshift()
    for path in (unet, autoencoder):
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.unet.state_dict(), unet)
    state = {published_name(name, 3): value for name, value in network.codec.autoencoder.state_dict().items()}
    # attention is made of 1x1 convolutions there
    torch.save({k: v[..., None, None] if "attn_1" in k and v.dim() == 2 else v for k, v in state.items()}, autoencoder)


def small_resshift(place: str = "") -> list[str]:
    """Options that tell a teacher the sizes of `tiny_resshift`, the one thing that its files do not say.

    Args:
        place: Which teacher of a training, `model.fidelity.`, or nothing for a teacher alone.
    """
    sizes = {"unet_architecture": tiny_resshift.UNET, "autoencoder_architecture": tiny_resshift.VQ}
    return [word for name, value in sizes.items() for word in (f"--{place}network.{name}", json.dumps(value))]


def _parts(base: Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    return UNet2DConditionModel.from_pretrained(base / "unet"), AutoencoderKL.from_pretrained(base / "vae")
