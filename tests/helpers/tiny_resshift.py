"""The smallest restorer with the published ResShift's parts, and the teacher made of it."""

from __future__ import annotations

from typing import Any

import torch

from ctsr_lightning.codecs.vq import VQCodec, vq_autoencoder
from ctsr_lightning.networks.published_resshift import PublishedResShift, published_schedule
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.teachers import BridgedTeacher
from helpers import tiny

UNET = {
    "image_size": 8,
    "model_channels": 32,
    "attention_resolutions": (8,),
    "channel_mult": (1, 1),
    "num_res_blocks": (1, 1),
    "swin_embed_dim": 32,
    "window_size": 4,
}
VQ = {"channels": 32, "channel_mult": (1, 1, 1), "num_res_blocks": 1, "num_codes": 64}


def resshift(seed: int = 0, version: Any = "v3", one_step: bool = False) -> PublishedResShift:
    """A denoiser for latents of 8x8 and their multiples, and a VQ autoencoder at f = 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = VQCodec(vq_autoencoder(**VQ))  # type: ignore[arg-type]
        torch.nn.init.normal_(codec.autoencoder.quantize.embedding.weight)  # far enough apart to matter
        unet = SwinUNet(**UNET)  # type: ignore[arg-type]
    return PublishedResShift(unet, codec, published_schedule(version), one_step=one_step)


def bridged_teacher(seed: int = 0, *, version: Any = "v3", one_step: bool = False, **options: Any) -> BridgedTeacher:
    """T_f in a latent space of its own, for students on the nano codec."""
    return BridgedTeacher(resshift(seed, version, one_step), options.pop("codec", tiny.nano_codec()), **options)
