"""Spectra of images behind windows: what repeats with a period, and how far it stands out."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

WINDOW, STRIDE = 128, 64
"""Side of a window and distance of neighbouring ones, in pixels."""
REACH, LOBE = 5, 2
"""Bins on every side of a frequency that its surroundings reach to, and that the main lobe of a peak there covers."""


def lattice_power(y: Tensor, factor: int, window: int = WINDOW, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Power of images at the frequencies of a lattice, and around them; differentiable, in the type of the images.

    The power spectrum is averaged over windows, each weighted by a Hann window in both directions, and normalised so
    that white noise has its variance in every bin: a wave of amplitude A that lies on a bin has A² N² / 9 for windows
    of N pixels, one of alternating signs (frequency 1/2 or 0 in both directions) four times that. The frequencies are
    (i/f, j/f), i and j from 0 to f - 1 and not both 0. What surrounds a frequency are the bins at most `REACH` away in
    both directions, without those within `LOBE` of it, where a peak's main lobe lies; their median is taken, so that
    single strong bins, of an edge or a texture of the photograph, do not count.

    Args:
        y: One channel, shape (B, 1, H, W); neither rounded nor clipped here.
        factor: f, the period of the lattice in pixels.
        window: N, a multiple of f with N / f > `REACH` + `LOBE`, so that no other peak is among the surroundings.
        stride: Distance of neighbouring windows in pixels; those that fit into the image count.

    Returns:
        The two powers, shape (B, f² - 1) each.

    Raises:
        ValueError: If an image is smaller than a window, or the window does not suit the factor.
    """
    if min(y.shape[-2:]) < window:
        raise ValueError(
            f"Expected images of at least {window}x{window} pixels for a window of that size, found {tuple(y.shape)}. "
            "Take larger crops, or leave the lattice out for them."
        )
    peaks, surroundings = (bins.to(y.device) for bins in lattice_bins(factor, window))
    hann = torch.hann_window(window, dtype=y.dtype, device=y.device)
    weights = hann[:, None] * hann / hann.square().sum()
    rows = y.squeeze(1).unfold(1, window, stride)  # (B, windows down, W, N)
    power = y.new_zeros(len(y), window * (window // 2 + 1))
    for row in rows.unbind(1):  # one after the other: large images would need much memory
        patches = row.transpose(1, 2).unfold(2, window, stride).transpose(1, 2)
        power = power + torch.fft.rfft2(patches * weights).abs().square().mean(dim=1).flatten(1)
    power = power / rows.shape[1]
    return power[:, peaks], power[:, surroundings].quantile(0.5, dim=-1)


@cache
def lattice_bins(factor: int, window: int) -> tuple[Tensor, Tensor]:
    """Places in the flattened half spectrum of the lattice's frequencies, and of their surroundings."""
    if factor < 2 or window % factor or window // factor <= REACH + LOBE:
        raise ValueError(
            f"Expected a period of at least 2 pixels that divides the window of {window} and fits into it more than "
            f"{REACH + LOBE} times, found {factor}. The factor is that of the codec: 4 for the nano codec, 8 for "
            "Stable Diffusion."
        )
    step = window // factor
    offsets = range(-REACH, REACH + 1)
    around = [(a, b) for a in offsets for b in offsets if max(abs(a), abs(b)) > LOBE]

    def place(i: int, j: int) -> int:
        i, j = i % window, j % window
        if j > window // 2:  # the half that a real image's transform leaves out
            i, j = -i % window, window - j
        return i * (window // 2 + 1) + j

    peaks = [(i, j) for i in range(0, window, step) for j in range(0, window, step) if i or j]
    return (
        torch.tensor([place(i, j) for i, j in peaks]),
        torch.tensor([[place(i + a, j + b) for a, b in around] for i, j in peaks]),
    )
