"""Shifted-window attention over feature maps, the half of ResShift's denoiser that is no convolution.

After Liu et al., "Swin Transformer", ICCV 2021. Module names are those of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
"""Groups of every normalisation."""
BLOCKED = -100.0
"""Summand of the logits of pixels that are no neighbours: softmax makes it 1e-44 (Swin)."""


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Build the mask of shifted windows that the published weights were trained with.

    A cyclic shift brings opposite borders into one window. Swin's mask keeps them apart along rows and columns; this
    one looks at the rows of windows alone and runs down the columns inside a window. What it does is to part the left
    from the right of every window in the last row, at `shift` pixels from the right, and to leave all other windows
    whole. The weights mean what they were trained to only with it.

    Args:
        height: Rows of the feature map, a multiple of `window`.
        width: Columns of the image.
        window: Side of a window.
        shift: How far the map was rolled up and left, 0 < shift < window.

    Returns:
        0 where two pixels of a window see each other, `BLOCKED` elsewhere; float32, shape
        (number of windows, window ** 2, window ** 2).
    """
    region = (torch.arange(window) >= window - shift).repeat(window)  # by column, for the pixels of a window in order
    parted = region[:, None] != region[None]
    mask = torch.zeros(height // window, width // window, window**2, window**2)
    mask[-1] = BLOCKED * parted.float()
    return mask.flatten(0, 1)


class ShiftMasks:
    """The masks of one network by size and device, so that a pass builds none that an earlier one has built.

    Args:
        limit: Masks to keep, oldest out; a network needs one per resolution and size of image.
    """

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit
        self.kept: dict[tuple[int, int, int, int, torch.device], Tensor] = {}

    def get(self, height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
        """Look up or build a mask; arguments as in `shift_mask`."""
        key = (height, width, window, shift, device)
        if key not in self.kept:
            with torch.inference_mode(False):  # a mask made in validation must serve a backward pass, too
                mask = shift_mask(height, width, window, shift).to(device)
            if len(self.kept) >= self.limit:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = mask
        return self.kept[key]


def relative_positions(window: int) -> Tensor:
    """Rows of the bias table in which the offsets between the pixels of a window stand, shape (window², window²)."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    down, right = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return down * (2 * window - 1) + right


class WindowAttention(nn.Module):
    """Multi-head attention among the pixels of a window, with a learned bias per offset and head.

    Args:
        channels: Channels of a pixel.
        window: Side of the window.
        heads: Attention heads.
        dropout: Dropout of the output.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            windows: Shape (B * windows per image, N, channels).
            mask: Shape (windows per image, N, N), added to the logits.
        """
        count, pixels, channels = windows.shape
        qkv = self.qkv(windows).view(count, pixels, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(pixels, pixels, self.heads).permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(count // mask.shape[0], 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        output: Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).reshape(count, pixels, channels)))
        return output


class PixelMLP(nn.Module):
    """Two 1x1 convolutions with a GELU between them.

    Args:
        channels: Channels in and out.
        hidden: Channels between.
        dropout: Dropout after each.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        output: Tensor = self.drop(self.fc2(self.drop(F.gelu(self.fc1(features)))))
        return output


class SwinBlock(nn.Module):
    """Attention within windows, plain or shifted, then an MLP, each with group normalisation before it.

    Args:
        channels: Channels.
        resolution: Side of the feature map that the network is made for. If that is no more than a window there is
            nothing to shift, and larger maps are not shifted there either.
        heads: Attention heads.
        window: Side of a window.
        shift: How far windows are shifted; 0 for a plain block.
        mlp_ratio: Hidden channels of the MLP per channel.
        dropout: Dropout.
        masks: The network's masks.
    """

    attn_mask: Tensor | None

    def __init__(
        self,
        channels: int,
        resolution: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        dropout: float,
        masks: ShiftMasks,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.window, self.shift = (resolution, 0) if resolution <= window else (window, shift)
        mask = shift_mask(resolution, resolution, self.window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask)
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.attn = WindowAttention(channels, self.window, heads, dropout)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.mlp = PixelMLP(channels, int(channels * mlp_ratio), dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape; h and w are multiples of the window."""
        features = features + self._attend(self.norm1(features))
        output: Tensor = features + self.mlp(self.norm2(features))
        return output

    def _attend(self, features: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        window, shift = self.window, self.shift
        if shift:
            features = features.roll((-shift, -shift), dims=(2, 3))
        tiled = features.view(batch, channels, height // window, window, width // window, window)
        windows = tiled.permute(0, 2, 4, 3, 5, 1).reshape(-1, window**2, channels)
        attended = self.attn(windows, self._mask(height, width, features.device))
        tiled = attended.view(batch, height // window, width // window, window, window, channels)
        output: Tensor = tiled.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
        return output.roll((shift, shift), dims=(2, 3)) if shift else output

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor | None:
        # The copy among the weights takes no part, here as in the published model, which computes its mask every time.
        return self.masks.get(height, width, self.window, self.shift, device) if self.shift else None


class Projection(nn.Module):
    """A 1x1 convolution into the width of the attention or out of it (patches of one pixel).

    Args:
        channels_in: Channels in.
        channels_out: Channels out.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Project."""
        output: Tensor = self.proj(features)
        return output


class SwinLayer(nn.Module):
    """Blocks of attention, plain and shifted in turn, at a width of their own.

    Args:
        channels: Channels in and out.
        embed_dim: Channels of the attention.
        resolution: Side of the feature map that the network is made for.
        depth: Blocks.
        heads: Attention heads.
        window: Side of a window.
        mlp_ratio: Hidden channels of the MLPs per channel.
        dropout: Dropout.
        masks: The network's masks.
    """

    def __init__(
        self,
        channels: int,
        embed_dim: int,
        resolution: int,
        depth: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        dropout: float,
        masks: ShiftMasks,
    ) -> None:
        super().__init__()
        self.patch_embed = Projection(channels, embed_dim)
        self.patch_unembed = Projection(embed_dim, channels)
        self.blocks = nn.ModuleList(
            SwinBlock(embed_dim, resolution, heads, window, window // 2 * (i % 2), mlp_ratio, dropout, masks)
            for i in range(depth)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        features = self.patch_embed(features)
        for block in self.blocks:
            features = block(features)
        output: Tensor = self.patch_unembed(features)
        return output
