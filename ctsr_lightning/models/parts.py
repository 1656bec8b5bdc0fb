"""Passes of a restoration one by one, each beside diffusers' bare network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import KLCodec, LatentCodec, in_its_type


class Part(NamedTuple):
    """A part of a model."""

    name: str
    """Its name."""
    networks: list[nn.Module]
    """The networks in it."""
    run: Callable[[], Any]
    """A pass of it."""
    plain: Callable[[], Any] | None = None
    """A pass of diffusers' bare network, of the same type and on the same input; None where there is none."""
    per_t: bool = False
    """Whether every further t takes it again."""


def bare_unet(unet: nn.Module, latent: Tensor, timestep: Tensor, prompt: Tensor | None) -> Callable[[], Any] | None:
    """A pass of diffusers' own UNet with the same weights; None for another network.

    Args:
        unet: The UNet, without adapters.
        latent: Its input, shape (B, C, h, w).
        timestep: Timesteps, shape (B,).
        prompt: Embeddings, shape (B, L, D), or None.
    """
    if not isinstance(unet, UNet2DConditionModel):
        return None
    bare, dtype = _bare(unet), unet.dtype
    shown, words = latent.to(dtype), None if prompt is None else prompt.to(dtype)

    @torch.no_grad()
    def run() -> Tensor:
        output: Tensor = bare(shown, timestep, words).sample
        return output

    return run


def bare_codec(codec: LatentCodec, image: Tensor, latent: Tensor) -> tuple[Callable[[], Any] | None, ...]:
    """An encoding and a decoding by diffusers' own autoencoder with the same weights; None for another codec.

    Args:
        codec: The codec, without adapters.
        image: RGB in [-1, 1], shape (B, 3, H, W).
        latent: A latent, shape (B, C, h, w).
    """
    if not isinstance(codec, KLCodec):
        return None, None
    bare = _bare(codec.autoencoder)
    shown, code = in_its_type(bare.encoder, image), in_its_type(bare.decoder, latent / bare.config.scaling_factor)

    @torch.no_grad()
    def encode() -> Tensor:
        latent: Tensor = bare.encode(shown).latent_dist.mode()
        return latent

    @torch.no_grad()
    def decode() -> Tensor:
        image: Tensor = bare.decode(code).sample
        return image

    return encode, decode


def _bare(network: Any) -> Any:
    """A network of diffusers as its configuration describes it, over the same weights."""
    with torch.device("meta"):
        bare = type(network).from_config(network.config)
    bare.load_state_dict(network.state_dict(), assign=True)
    return bare.eval()
