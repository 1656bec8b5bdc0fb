"""Lattice: does a pattern that repeats with the codec's patches stand out of an image's spectrum?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.images import rgb_to_y
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.grid import FLOOR, joined

BAR = 4.0
"""Decibels above which a lattice is said to stand out; ground truth has about 1."""
JPEG = 8
"""Side of JPEG's blocks in pixels."""
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
    peaks, surroundings = (bins.to(y.device) for bins in _bins(factor, window))
    hann = torch.hann_window(window, dtype=y.dtype, device=y.device)
    weights = hann[:, None] * hann / hann.square().sum()
    rows = y.squeeze(1).unfold(1, window, stride)  # (B, windows down, W, N)
    power = y.new_zeros(len(y), window * (window // 2 + 1))
    for row in rows.unbind(1):  # one after the other: large images would need much memory
        patches = row.transpose(1, 2).unfold(2, window, stride).transpose(1, 2)
        power = power + torch.fft.rfft2(patches * weights).abs().square().mean(dim=1).flatten(1)
    power = power / rows.shape[1]
    return power[:, peaks], power[:, surroundings].quantile(0.5, dim=-1)


def lattice_level(y: Tensor, factor: int, window: int = WINDOW, stride: int = STRIDE) -> Tensor:
    """How far a lattice stands out of the spectrum, in dB, shape (B,): mean over frequencies of 10 log10 of the ratio.

    Both powers of `lattice_power` count c = `FLOOR`² more, the variance of noise far below an 8-bit level, so that a
    flat image has 0 dB. White noise in many windows has 0 dB, too.

    Args:
        y: As for `lattice_power`, likewise the rest.
        factor: f, the period of the lattice in pixels.
        window: Side of a window in pixels.
        stride: Distance of neighbouring windows in pixels.

    Raises:
        ValueError: If an image is smaller than a window, or the window does not suit the factor.
    """
    peaks, surroundings = lattice_power(y, factor, window, stride)
    return 10.0 * ((peaks + FLOOR**2) / (surroundings + FLOOR**2)).log10().mean(dim=1)


@cache
def _bins(factor: int, window: int) -> tuple[Tensor, Tensor]:
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


class Lattice(ImageMean):
    """Mean over images of the level of a lattice in the restored image's luma, in dB; ground truth has about 1 dB.

    A decoder that makes every patch of f x f pixels from one latent may repeat a pattern in all patches, and a
    perceptual loss may reward it. The pattern need not lie on the borders, as `grid_energy` expects: here it is seen by
    its period. JPEG has a lattice of period 8, and every one of period 4 has period 8, too. Less is better down to what
    ground truth has: read the value beside that.

    Of several readings (ratios averaged before the logarithm, spectra of single windows, smaller and larger
    surroundings) this one gives, over every third of RealSR's 100 test pairs and f = 4: 0.94 dB for ground truth, 1.96
    for OSEDiff's published images, 10.69 and 11.84 for the first weights of nano at t = 0 and t = 1.

    Images with a side shorter than a window (`WINDOW`) have no value (NaN) and do not count; without any, the mean is
    NaN.

    Args:
        factor: f, the period in pixels.

    Raises:
        ValueError: If the factor does not divide the window, or is too large for it.
    """

    higher_is_better = None
    needs_reference = False
    partial = True

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        _bins(factor, WINDOW)
        self.factor = factor
        self.definition = (
            f"dB by which the power at the frequencies (i/{factor}, j/{factor}) exceeds the median around them, mean "
            f"over frequencies; luma of BT.601, spectra averaged over Hann windows of {WINDOW}x{WINDOW} pixels, "
            f"stride {STRIDE}"
        )

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Level of the lattice in each restored image."""
        del gt
        if min(restored.shape[-2:]) < WINDOW:
            return restored.new_full((len(restored),), torch.nan)
        return lattice_level(rgb_to_y(restored.double()), self.factor)


def lattices(factor: int) -> dict[str, Lattice]:
    """The lattices to look for in images that a codec made, by name: that of its patches, and that of JPEG's blocks.

    Args:
        factor: The codec's factor.
    """
    chosen = sorted({factor, JPEG} if WINDOW % factor == 0 and WINDOW // factor > REACH + LOBE else {JPEG})
    return {f"lattice_{period}": Lattice(period) for period in chosen}


@dataclass(frozen=True)
class LatticeCheck:
    """Whether no setting has a lattice above `BAR`.

    Args:
        factor: The period in pixels.
        values: `Lattice` by setting, such as `t=0.50`, in dB.
        every: What the settings are, as in "for every t"; empty for a single one without a name.
        gt: That of the ground truth.
    """

    factor: int
    values: Mapping[str, float]
    every: str = ""
    gt: float | None = None

    @property
    def outside(self) -> dict[str, float]:
        """The settings above the bar."""
        return {label: value for label, value in self.values.items() if value > BAR}

    @property
    def holds(self) -> bool:
        """Whether there is none."""
        return not self.outside

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        record = asdict(self) | {"values": dict(self.values), "bar": BAR, "holds": self.holds}
        return record | {"outside": list(self.outside), "sentence": self.sentence()}

    def sentence(self) -> str:
        """The same in plain English."""
        truth = f"; ground truth: {self.gt:.1f} dB" if self.gt is not None else ""
        if self.holds:
            label, value = max(self.values.items(), key=lambda item: item[1])
            most = f"highest: {value:.1f} dB at {label}" if self.every else f"{value:.1f} dB"
            every = f" for every {self.every}" if self.every else ""
            return f"The lattice of period {self.factor} stays below {BAR:g} dB{every} ({most}{truth})."
        places = [
            f"at {label} ({value:.1f} dB)" if self.every else f"({value:.1f} dB)"
            for label, value in self.outside.items()
        ]
        return f"**A lattice of period {self.factor} stands out by more than {BAR:g} dB** {joined(places)}{truth}."
