"""The VQ autoencoder whose latents ResShift and SinSR work in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.weights.resshift_files import load_resshift_file, published_name

_ROWS = 4096  # latents looked up at once: with 8192 codes their distances take 134 MB


class VQCodec(LatentCodec):
    """The vector-quantised autoencoder of latent diffusion models (ResShift: f = 4, 3 channels, 8192 codes).

    A latent is the encoder's output before quantisation; decoding quantises first. The gradient passes the
    quantisation as if it were the identity (straight-through), so that an error in pixels reaches the latent: the true
    derivative is zero almost everywhere.

    Args:
        autoencoder: diffusers' VQModel.
    """

    def __init__(self, autoencoder: VQModel) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.channels = autoencoder.quantize.vq_embed_dim

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Encode to continuous latents; there is no posterior to sample from, so `sample` is refused."""
        if sample:
            raise ValueError("VQCodec is deterministic: it has no posterior to sample from. Use sample=False.")
        if image.shape[-2] % self.factor or image.shape[-1] % self.factor:
            raise ValueError(
                f"Expected images whose sides are multiples of {self.factor}, found "
                f"{image.shape[-2]}x{image.shape[-1]}. Pad or crop them first."
            )
        return at_least_float32(self.autoencoder.encode(image).latents)

    def decode(self, latent: Tensor) -> Tensor:
        """Quantise, then decode."""
        image: Tensor = self.autoencoder.decode(self.quantize(latent), force_not_quantize=True).sample
        return image

    def quantize(self, latent: Tensor) -> Tensor:
        """Replace every latent vector by the nearest code; the gradient is that of the identity.

        Args:
            latent: Shape (B, channels, h, w).
        """
        codebook = self.autoencoder.quantize.embedding.weight
        rows = latent.detach().permute(0, 2, 3, 1).reshape(-1, self.channels)
        # |z - e|² without |z|², which is the same for every code
        wide_codes, lengths = (
            at_least_float32(codebook.detach()),
            at_least_float32(codebook.detach()).square().sum(dim=1),
        )
        with torch.autocast(latent.device.type, enabled=False):  # in half precision a third of them would be others
            nearest = torch.cat(
                [
                    torch.addmm(lengths, at_least_float32(part), wide_codes.T, alpha=-2.0).argmin(dim=1)
                    for part in rows.split(_ROWS)
                ]
            )
        batch, _, height, width = latent.shape
        codes = F.embedding(nearest, codebook).view(batch, height, width, self.channels).permute(0, 3, 1, 2)
        return codes.to(latent) + (latent - latent.detach())  # in this order the sum is exactly the code

    def adapted(self) -> nn.Module:
        """The autoencoder."""
        return self.autoencoder

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the blocks of encoder and decoder in the backward pass; VQModel does not offer it, its parts do."""
        for part in (self.autoencoder.encoder, self.autoencoder.decoder):
            part.gradient_checkpointing = True
            part._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def vq_autoencoder(
    channels: int = 128,
    channel_mult: Sequence[int] = (1, 2, 4),
    num_res_blocks: int = 2,
    latent_channels: int = 3,
    num_codes: int = 8192,
    code_channels: int = 3,
) -> VQModel:
    """Build the autoencoder of the published configuration, VQ-f4, 55.3 M weights.

    Args:
        channels: Channels at full resolution.
        channel_mult: Factor on them per resolution.
        num_res_blocks: Residual blocks per resolution of the encoder; the decoder has one more.
        latent_channels: Channels between encoder and decoder.
        num_codes: Codes in the codebook.
        code_channels: Channels of a code, hence of the latent.
    """
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * len(channel_mult),
        up_block_types=("UpDecoderBlock2D",) * len(channel_mult),
        block_out_channels=tuple(channels * mult for mult in channel_mult),
        layers_per_block=num_res_blocks,
        latent_channels=latent_channels,
        num_vq_embeddings=num_codes,
        vq_embed_dim=code_channels,
        scaling_factor=1.0,
    )


def load_vq_codec(path: Path, architecture: Mapping[str, Any] | None = None) -> VQCodec:
    """Load a VQ autoencoder with the published names (`autoencoder_vq_f4.pth`); half precision becomes float32.

    Args:
        path: The file, `.pth` or `.safetensors`.
        architecture: Arguments of `vq_autoencoder` that differ from the published model's.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it is damaged, holds code or other weights.
    """
    with torch.device("meta"):  # without initialisation: the file holds every weight
        autoencoder = vq_autoencoder(**(architecture or {}))
    resolutions = len(autoencoder.config.block_out_channels)
    names = {name: published_name(name, resolutions) for name in autoencoder.state_dict()}
    load_resshift_file(autoencoder, path, "a VQ autoencoder", names)
    return VQCodec(autoencoder.train())  # the mode of all loaded networks; a frozen owner changes it
