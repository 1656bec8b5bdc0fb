"""The two halves of the nano codec: a cosine transform with learned corrections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4
"""Side of the transform's patches in pixels."""
TAPS = 3
"""Patches that a filter of the synthesis reaches over along each side, odd."""


def cosine_basis(channels: int) -> Tensor:
    """Analysis filters of a 4x4 discrete cosine transform of RGB patches, lowest frequencies first.

    Colour is rotated to an orthonormal luma and two opponent axes. A filter's rank is its frequency, with chroma
    counted as higher frequency than luma, as natural images have less of it. Rows are orthonormal.

    Args:
        channels: Number of filters kept, at most 48.

    Returns:
        Filters of shape (channels, 3, 4, 4).

    Raises:
        ValueError: If channels are not 1 to 48.
    """
    if not 1 <= channels <= 3 * PATCH**2:
        raise ValueError(f"Expected 1 to {3 * PATCH**2} channels for a {PATCH}x{PATCH} RGB patch, found {channels}.")
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


class LappedDecoder(nn.Module):
    """A lapped 4x4 synthesis plus convolutions at one, two and four times the latent's size.

    Constant latents decode to a constant image, exactly, whatever the weights: the filters of the synthesis, 12 pixels
    wide, are projected to sum to the same value at each of the 16 places of a patch, and between the convolutions the
    features are interpolated, never shuffled. So no shift of a latent paints a lattice with the patches' period, which
    perceptual losses reward and smooth images betray.

    Args:
        channels: Channels of the latent.
        widths: Channels of the convolutions at one, two and four times the latent's size.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        side = PATCH * TAPS
        basis = cosine_basis(channels) / channel_gains(channels).view(-1, 1, 1, 1)
        mean = basis.mean(dim=(2, 3), keepdim=True)
        slope = (1 - (torch.arange(side) - (side - 1) / 2).abs() / PATCH).clamp(min=0)  # linear interpolation
        filters = mean * slope[:, None] * slope
        inner = slice((side - PATCH) // 2, (side + PATCH) // 2)
        filters[:, :, inner, inner] += basis - mean
        self.synthesis = nn.Parameter(filters)
        self.bias = nn.Parameter(torch.zeros(3))
        one, two, four = widths
        self.coarse = nn.Sequential(
            _convolution(channels, one), nn.SiLU(), _convolution(one, one), nn.SiLU(), _convolution(one, two)
        )
        self.middle = nn.Sequential(nn.SiLU(), _convolution(two, two), nn.SiLU(), _convolution(two, four))
        self.fine = nn.Sequential(nn.SiLU(), _convolution(four, four), nn.SiLU(), _convolution(four, 3))
        with torch.no_grad():
            for parameter in self.fine[-1].parameters():
                nn.init.zeros_(parameter)  # begin with the synthesis alone

    def forward(self, latent: Tensor) -> Tensor:
        """Map latents (B, channels, h, w) to images (B, 3, 4h, 4w)."""
        corrected: Tensor = self.fine(_twice(self.middle(_twice(self.coarse(latent)))))
        return self._synthesise(latent) + corrected

    def _synthesise(self, latent: Tensor) -> Tensor:
        filters = self.synthesis.unflatten(2, (TAPS, PATCH)).unflatten(4, (TAPS, PATCH))  # (C, 3, n, 4, n, 4)
        sums = filters.sum(dim=(2, 4), keepdim=True)
        flat = filters - (sums - sums.mean(dim=(3, 5), keepdim=True)) / TAPS**2
        around = TAPS // 2
        latent = F.pad(latent, (around,) * 4, mode="replicate")
        image = F.conv_transpose2d(latent, flat.flatten(4, 5).flatten(2, 3), self.bias, stride=PATCH)
        rim = PATCH * (TAPS - 1)
        return image[..., rim:-rim, rim:-rim]


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")


def _twice(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
