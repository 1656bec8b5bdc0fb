"""UNet at laptop size."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel

from ctsr_lightning.weights.reading import load_weights


def nano_unet(
    latent_channels: int = 24,
    in_channels: int | None = None,
    widths: tuple[int, ...] = (64, 96, 128),
    layers: int = 1,
    weights: Path | None = None,
    prefix: str = "student.unet.",
) -> UNet2DConditionModel:
    """Build diffusers' UNet at laptop size: convolutions only, no prompt.

    Args:
        latent_channels: Channels of its output.
        in_channels: Channels of its input; null for as many as the output.
        widths: Channels per resolution, each a multiple of 8.
        layers: Residual blocks per resolution.
        weights: A checkpoint or safetensors file to start from.
        prefix: Where in that file the UNet is.
    """
    unet = UNet2DConditionModel(
        in_channels=in_channels or latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        mid_block_type=None,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=8,  # no block attends to it
    )
    if weights is not None:
        load_weights(unet, weights, prefix=prefix)
    return unet
