"""Grid energy: visibility of the codec's grid of patches in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.base import ImageMean

BAR = 0.03
"""How far the grid energy of restored images may lie from that of the ground truth, as a share of it."""
FLOOR = 1e-4
"""Mean difference (for images in [0, 1]) below which pixels count as equal: a fortieth of an 8-bit level."""


def grid_energy(image: Tensor, factor: int, cut: int = 0) -> Tensor:
    """Grid energy of images on their own, shape (B,), float64: about 1 for a photograph, more where patches show.

    E = (a + c) / (o + c) with c = `FLOOR`. a is the mean absolute difference of neighbouring pixels on both sides of a
    patch border, columns k f - 1 and k f, plus the same for rows; o is that of all other neighbours. Columns and rows
    are averaged by themselves, so that the size of an image does not shift the balance between them. A flat image
    has 1.

    Args:
        image: Images in [0, 1], shape (B, 3, H, W), rounded to 8 bits here; sides need not be multiples of f.
        factor: f, the side of a patch in pixels.
        cut: Pixels that were cut off the left and the top, so that the image no longer begins with a whole patch.

    Raises:
        ValueError: If a side is not longer than a patch.
    """
    if min(image.shape[-2:]) <= factor:
        raise ValueError(
            f"Expected images of more than {factor} pixels a side for a grid of that spacing, found "
            f"{tuple(image.shape)}. Leave grid_energy out for them."
        )
    levels = (quantize(image) * 255.0).round()  # whole numbers: their sums are exact in any order
    sides = [_means(levels.diff(dim=dim), dim, (factor - 1 - cut) % factor, factor) for dim in (-1, -2)]
    (columns, others_along), (rows, others_down) = sides
    return (columns + rows + FLOOR) / (others_along + others_down + FLOOR)


def _means(steps: Tensor, dim: int, start: int, factor: int) -> tuple[Tensor, Tensor]:
    """Mean absolute difference, in [0, 1], at every `factor`-th place along a dimension and at all others."""
    sums = steps.abs().sum(dim=(1, -3 - dim), dtype=torch.float64)  # over colours and the other dimension
    grid = sums[:, start::factor]
    count = 255.0 * steps[0].numel() / sums.shape[1]
    at_grid, elsewhere = grid.sum(dim=1), sums.sum(dim=1) - grid.sum(dim=1)
    return at_grid / (count * grid.shape[1]), elsewhere / (count * (sums.shape[1] - grid.shape[1]))


class GridEnergy(ImageMean):
    """Mean over images of the restored image's grid energy divided by the ground truth's; 1 if no grid was added.

    A decoder that makes every patch of f x f pixels from one latent can paint the grid of patches into its images, and
    a perceptual loss may reward it. Neither more nor less is better, as the ground truth has 1. Smooth enlargement by f
    raises it, too, without any painted grid: an interpolated image is steepest midway between the pixels it was made
    from. So read a blurred restoration's value beside that of bicubic enlargement. Ground truth may have a grid of its
    own, which a restoration need not repeat: that of RealSR's 100 test pairs has a grid energy of 1.054 at multiples of
    4, and of 0.973, 1.005 and 0.971 when 1, 2 and 3 pixels are cut off.

    Args:
        factor: f, the side of a patch in pixels: the codec's factor.
        cut: Pixels that were cut off every side before.

    Raises:
        ValueError: If the factor is less than 2, or the cut negative.
    """

    higher_is_better = None
    ideal: float = 1.0
    """The best value, for a metric that has it in the middle."""

    def __init__(self, factor: int = 4, cut: int = 0) -> None:
        super().__init__()
        if factor < 2 or cut < 0:
            raise ValueError(
                f"Expected patches of at least 2 pixels and a cut of at least 0, found {factor} and {cut}. The factor "
                "is that of the codec: 4 for the nano codec, 8 for Stable Diffusion."
            )
        self.factor, self.cut = factor, cut
        self.definition = (
            "restored / ground truth of: mean absolute difference of neighbouring pixels across the borders of "
            f"{factor}x{factor} patches, divided by that of all others; RGB, {FLOOR:g} added to both means"
        )

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Ratio of the grid energies of each pair."""
        return grid_energy(restored, self.factor, self.cut) / grid_energy(gt, self.factor, self.cut)


@dataclass(frozen=True)
class GridCheck:
    """Whether grid energy stays within `BAR` of the ground truth's in every setting.

    Args:
        factor: The side of a patch in pixels.
        values: `GridEnergy` by setting, such as `t=0.50`.
        every: Noun for the settings, as in "for every t"; empty for a single one without a name.
        bicubic: That of bicubic enlargement, to compare with; None if not measured.
    """

    factor: int
    values: Mapping[str, float]
    every: str = ""
    bicubic: float | None = None

    @property
    def outside(self) -> dict[str, float]:
        """The settings that leave the bar."""
        return {label: value for label, value in self.values.items() if not 1.0 - BAR <= value <= 1.0 + BAR}

    @property
    def holds(self) -> bool:
        """Whether no setting leaves it."""
        return not self.outside

    @property
    def farthest(self) -> tuple[str, float]:
        """The setting farthest from 1, and its value."""
        return max(self.values.items(), key=lambda item: abs(item[1] - 1.0))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        record = asdict(self) | {"values": dict(self.values), "bar": BAR, "holds": self.holds}
        return record | {"outside": list(self.outside), "sentence": self.sentence()}

    def sentence(self) -> str:
        """The same in plain English."""
        patches = f"patches of {self.factor}x{self.factor} pixels"
        trace = f"; bicubic enlargement: {_percent(self.bicubic)}" if self.bicubic is not None else ""
        if self.holds:
            label, value = self.farthest
            most = f"farthest: {_percent(value)} at {label}" if self.every else _percent(value)
            every = f" for every {self.every}" if self.every else ""
            return f"Grid energy stays within {100 * BAR:g} % of the ground truth's{every} ({patches}; {most}{trace})."
        places = [f"at {label} ({_percent(value)})" for label, value in self.outside.items()]
        where = joined(places) if self.every else f"({_percent(self.farthest[1])})"
        return f"**Grid energy leaves the {100 * BAR:g} % around the ground truth's** {where}. P{patches[1:]}{trace}."


def joined(words: Sequence[str]) -> str:
    """`a, b and c`.

    Args:
        words: At least one.
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _percent(value: float) -> str:
    return f"{100.0 * (value - 1.0):+.2f} %"
