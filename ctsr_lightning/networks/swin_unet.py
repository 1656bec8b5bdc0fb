"""ResShift's denoiser: a UNet of residual blocks with shifted-window attention at every resolution.

Written from the paper (Yue et al., "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting", NeurIPS 2023) and the names and shapes of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ctsr_lightning.networks.swin_blocks import GROUPS, ShiftMasks, SwinLayer

MAX_PERIOD = 10000.0
"""Longest period of the time embedding (DDPM)."""
LQ_CHANNELS = 3
"""The low-quality image is RGB."""


def time_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of steps: the cosines, then the sines.

    Args:
        timesteps: Steps, shape (B,), float32 or float64.
        channels: Channels of the embedding; an odd one out stays zero.

    Returns:
        Shape (B, channels), the dtype of `timesteps`.
    """
    half = channels // 2
    order = torch.arange(half, dtype=timesteps.dtype, device=timesteps.device)
    angles = timesteps[:, None] * torch.exp(-math.log(MAX_PERIOD) * order / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, channels % 2))


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut, the second normalised with scale and shift from the time embedding.

    Args:
        channels_in: Channels in.
        channels_out: Channels out.
        time_channels: Channels of the time embedding.
        dropout: Dropout before the second convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, time_channels: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, 2 * channels_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_out),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        same = channels_in == channels_out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Map (B, channels_in, h, w) and a time embedding (B, time_channels) to (B, channels_out, h, w)."""
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        hidden = norm(self.in_layers(features)) * (1 + scale) + shift
        for layer in rest:
            hidden = layer(hidden)
        output: Tensor = self.skip_connection(features) + hidden
        return output


class Downsample(nn.Module):
    """A convolution of stride 2.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Halve the sides."""
        output: Tensor = self.op(features)
        return output


class Upsample(nn.Module):
    """Nearest-neighbour enlargement and a convolution.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Double the sides."""
        output: Tensor = self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return output


class Stage(nn.ModuleList):
    """Layers in a row, of which the residual blocks also see the time."""

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Pass the layers."""
        for layer in self:
            features = layer(features, time) if isinstance(layer, ResidualBlock) else layer(features)
        return features


class SwinUNet(nn.Module):
    """ResShift's denoiser f(w_τ, τ, x_LR), which predicts w_0.

    The defaults are those of the published x4 model, 118.6 M weights.

    It sees the scaled latent and, beside it, the low-quality image at its own resolution: with an autoencoder of
    factor 4 and a task of x4 the two have the same grid.

    Args:
        image_size: Side of the latents that the model was made for. Others work as well; this one decides at which
            resolutions windows are shifted.
        in_channels: Channels of the latent; the image adds three.
        model_channels: Channels at full resolution.
        out_channels: Channels of the prediction.
        attention_resolutions: Resolutions, counted from `image_size`, whose first blocks attend.
        dropout: Dropout.
        channel_mult: Factor on `model_channels` per resolution.
        num_res_blocks: Residual blocks per resolution; the upward half has one more.
        num_head_channels: Channels per attention head.
        swin_depth: Attention blocks in a row, plain and shifted in turn.
        swin_embed_dim: Channels of the attention.
        window_size: Side of an attention window.
        mlp_ratio: Hidden channels of the MLPs per channel.

    Raises:
        ValueError: If the numbers do not fit each other.
    """

    def __init__(
        self,
        image_size: int = 64,
        in_channels: int = 3,
        model_channels: int = 160,
        out_channels: int = 3,
        attention_resolutions: Sequence[int] = (64, 32, 16, 8),
        dropout: float = 0.0,
        channel_mult: Sequence[int] = (1, 2, 2, 4),
        num_res_blocks: Sequence[int] = (2, 2, 2, 2),
        num_head_channels: int = 32,
        swin_depth: int = 2,
        swin_embed_dim: int = 192,
        window_size: int = 8,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if len(channel_mult) != len(num_res_blocks):
            raise ValueError(
                "Expected as many entries in channel_mult as in num_res_blocks, one per resolution, "
                f"found {len(channel_mult)} and {len(num_res_blocks)}."
            )
        if swin_embed_dim % num_head_channels or model_channels % GROUPS or swin_embed_dim % GROUPS:
            raise ValueError(
                f"Expected swin_embed_dim to be a multiple of num_head_channels ({num_head_channels}) and both it and "
                f"model_channels multiples of {GROUPS}, found {swin_embed_dim} and {model_channels}."
            )
        self.in_channels, self.out_channels, self.model_channels = in_channels, out_channels, model_channels
        self.gradient_checkpointing = False
        masks = ShiftMasks()
        time_channels = 4 * model_channels
        widths = [mult * model_channels for mult in channel_mult]
        last = len(widths) - 1
        attending = {level for level in range(last + 1) if image_size >> level in attention_resolutions}

        def attention(level: int) -> SwinLayer:
            heads, size = swin_embed_dim // num_head_channels, image_size >> level
            return SwinLayer(
                widths[level], swin_embed_dim, size, swin_depth, heads, window_size, mlp_ratio, dropout, masks
            )

        def stage(channels: int, level: int, block: int) -> Stage:
            layers: list[nn.Module] = [ResidualBlock(channels, widths[level], time_channels, dropout)]
            return Stage([*layers, attention(level)] if block == 0 and level in attending else layers)

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels)
        )
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels + LQ_CHANNELS, widths[0], 3, padding=1)])])
        skipped = [widths[0]]  # channels of what the downward half leaves for the upward half
        for level, width in enumerate(widths):
            for block in range(num_res_blocks[level]):
                self.input_blocks.append(stage(skipped[-1], level, block))
                skipped.append(width)
            if level < last:
                self.input_blocks.append(Stage([Downsample(width)]))
                skipped.append(width)
        ends = [ResidualBlock(widths[last], widths[last], time_channels, dropout) for _ in range(2)]
        self.middle_block = Stage([ends[0], attention(last), ends[1]])
        self.output_blocks = nn.ModuleList()
        channels = widths[last]
        for level in range(last, -1, -1):
            for block in range(num_res_blocks[level] + 1):
                layers = stage(channels + skipped.pop(), level, block)
                channels = widths[level]
                if level > 0 and block == num_res_blocks[level]:
                    layers.append(Upsample(channels))
                self.output_blocks.append(layers)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.multiple = math.lcm(2**last, *(min(window_size, image_size >> i) << i for i in attending | {last}))
        """Sides of the latent must be multiples of this many: whole windows at every resolution, 64 when published."""

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every stage in the backward pass, which saves the memory of its activations."""
        self.gradient_checkpointing = True

    def forward(self, x: Tensor, timesteps: Tensor, lq: Tensor) -> Tensor:
        """Predict the clean latent w_0.

        Args:
            x: The latent w_τ, already scaled to unit variance, shape (B, in_channels, h, w).
            timesteps: Steps τ as they are numbered, 0 … N-1, shape (B,).
            lq: The low-quality image in [-1, 1], shape (B, 3, h, w).

        Returns:
            Shape (B, out_channels, h, w).

        Raises:
            ValueError: If h or w is no multiple of `multiple`, or the two grids differ.
        """
        height, width = x.shape[-2:]
        if lq.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"Expected a low-quality image on the latent's grid, {height}x{width}, found "
                f"{lq.shape[-2]}x{lq.shape[-1]}. Give it at its own resolution, not enlarged."
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"Expected sides that are multiples of {self.multiple} (whole windows at every resolution), found "
                f"{height}x{width}. Pad the images first, as PublishedResShift.restore does."
            )
        dtype: torch.dtype = self.out[-1].weight.dtype  # type: ignore[assignment]
        steps = timesteps.to(torch.float64 if dtype == torch.float64 else torch.float32)
        time = self.time_embed(time_embedding(steps, self.model_channels).to(dtype))
        features = torch.cat([x.to(dtype), lq.to(dtype)], dim=1)
        skipped = []
        for stage in self.input_blocks:
            features = self._pass(stage, features, time)
            skipped.append(features)
        features = self._pass(self.middle_block, features, time)
        for stage in self.output_blocks:
            features = self._pass(stage, torch.cat([features, skipped.pop()], dim=1), time)
        output: Tensor = self.out(features)
        return output

    def _pass(self, stage: nn.Module, features: Tensor, time: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(stage, features, time, use_reentrant=False)
            return recomputed
        output: Tensor = stage(features, time)
        return output
