"""Lattice level: power of patterns that repeat with the codec's patches, above an image's spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.images import rgb_to_y
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.grid import FLOOR, joined
from ctsr_lightning.spectrum import LOBE, REACH, STRIDE, WINDOW, lattice_bins, lattice_power

BAR = 4.0
"""Decibels above which a lattice is said to stand out; ground truth has about 1."""
JPEG = 8
"""Side of JPEG's blocks in pixels."""


def lattice_level(y: Tensor, factor: int, window: int = WINDOW, stride: int = STRIDE) -> Tensor:
    """How far a lattice stands out of the spectrum, in dB, shape (B,): mean over frequencies of 10 log10 of the ratio.

    Both powers of `lattice_power` count c = `FLOOR`² more, the variance of noise far below an 8-bit level, so that a
    flat image has 0 dB. White noise in many windows has 0 dB, too.

    Args:
        y: Luma in [0, 1], as for `lattice_power`.
        factor: f, the period of the lattice in pixels.
        window: Side of a window in pixels.
        stride: Distance of neighbouring windows in pixels.

    Raises:
        ValueError: If an image is smaller than a window, or the window does not suit the factor.
    """
    peaks, surroundings = lattice_power(y, factor, window, stride)
    return 10.0 * ((peaks + FLOOR**2) / (surroundings + FLOOR**2)).log10().mean(dim=1)


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
        lattice_bins(factor, WINDOW)
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
        every: Noun for the settings, as in "for every t"; empty for a single one without a name.
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
