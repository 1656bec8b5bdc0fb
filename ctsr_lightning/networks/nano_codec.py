"""The two halves of the nano codec: a cosine transform with learned corrections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4
"""Side of the transform's patches in pixels."""


def cosine_basis(channels: int) -> Tensor:
    """Analysis filters of a 4x4 discrete cosine transform of RGB patches, lowest frequencies first.

    Colour is rotated to an orthonormal luma and two opponent axes. A filter's rank is its frequency, with chroma
    counted as higher frequency than luma, as natural images have less of it. Rows are orthonormal.

    Args:
        channels: Number of filters kept, at most 48.

    Returns:
        Filters of shape (channels, 3, 4, 4).

    Raises:
        ValueError: If more than 48 filters are asked for.
    """
    if not 1 <= channels <= 3 * PATCH**2:
        raise ValueError(f"Expected 1 to {3 * PATCH**2} channels for a {PATCH}x{PATCH} RGB patch, got {channels}.")
    n = torch.arange(PATCH, dtype=torch.float64)
    dct = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / PATCH) * math.sqrt(2 / PATCH)
    dct[0] /= math.sqrt(2)
    colour = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colour = colour / colour.norm(dim=1, keepdim=True)
    ranked = [
        (math.hypot(u, v) + (2.5 if c else 0.0) * (u + v > 0) + (0.1 * c), c, u, v)
        for c in range(3)
        for u in range(PATCH)
        for v in range(PATCH)
    ]
    filters = [
        colour[c][:, None, None] * dct[u][None, :, None] * dct[v][None, None, :] for _, c, u, v in sorted(ranked)
    ]
    return torch.stack(filters[:channels]).float()


def channel_gains(channels: int) -> Tensor:
    """Gains that bring the coefficients of natural images to comparable size.

    The orthonormal mean of a patch in [-1, 1] has a standard deviation near 3, an edge coefficient near 0.3; the gains
    flatten that range partly, so that noise hides fine detail before it hides structure, as it does in pixels.

    Args:
        channels: Number of channels.
    """
    strength = cosine_basis(channels).mean(dim=(2, 3)).abs().sum(dim=1) > 1e-6  # the three patch means
    luma = cosine_basis(channels)[:, :, 0, 0].sum(dim=1).abs() > 1e-6
    gains = torch.full((channels,), 2.0)
    gains[strength] = 0.7
    gains[strength & luma] = 0.35
    return gains


class PatchEncoder(nn.Module):
    """Linear 4x4 analysis plus a convolutional correction that starts at zero.

    Args:
        channels: Channels of the latent.
        width: Channels of the correction.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        filters = cosine_basis(channels) * channel_gains(channels).view(-1, 1, 1, 1)
        self.linear = nn.Conv2d(3, channels, PATCH, stride=PATCH)
        self.correction = nn.Sequential(
            nn.Conv2d(3, width, 2 * PATCH, stride=PATCH, padding=PATCH // 2, padding_mode="replicate"),
            nn.SiLU(),
            nn.Conv2d(width, channels, 1),
        )
        with torch.no_grad():
            self.linear.weight.copy_(filters)
            nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]  # Conv2d types an existing bias as optional
            for parameter in self.correction[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to latents (B, channels, H/4, W/4)."""
        latent: Tensor = self.linear(image) + self.correction(image)
        return latent


class OverlappingDecoder(nn.Module):
    """Linear 4x4 synthesis plus corrections over neighbouring latents and over pixels, both starting at zero.

    Args:
        channels: Channels of the latent.
        width: Channels of the corrections.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.ConvTranspose2d(channels, 3, PATCH, stride=PATCH)
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate"),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.SiLU(),
            nn.Conv2d(width, 3 * PATCH**2, 3, padding=1, padding_mode="replicate"),
        )
        self.smooth = nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate", bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(cosine_basis(channels) / channel_gains(channels).view(-1, 1, 1, 1))
            nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]
            for parameter in self.body[-1].parameters():
                nn.init.zeros_(parameter)
            nn.init.zeros_(self.smooth.weight)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (B, channels, h, w) to images (B, 3, 4h, 4w)."""
        image = self.linear(latent) + F.pixel_shuffle(self.body(latent), PATCH)
        smoothed: Tensor = image + self.smooth(image)
        return smoothed
