"""Stability of a stochastic method over runs that differ in the seed: G-STD and L-STD of CCSR (Sun et al.).

Both are population standard deviations over N runs of one image, averaged over images; 0 means that every run gives
the same result, and equal runs give exactly 0.0, free of rounding. There is none for FID, which is a property of the
whole set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.images import quantize


class _Runs:
    """How many runs every image had: the same for all, and at least two."""

    def __init__(self) -> None:
        self.expected: int | None = None
        self.seen = 0
        self.images = 0

    def finish(self) -> int:
        """Close an image and return its number of runs."""
        runs, self.seen = self.seen, 0
        if runs < 2:
            raise ValueError(f"Expected at least 2 runs of each image for a deviation, found {runs}. Use more seeds.")
        if self.expected not in {None, runs}:
            raise ValueError(
                f"Expected {self.expected} runs, as of the images before, found {runs}. Run every image with the same "
                "seeds."
            )
        self.expected = runs
        self.images += 1
        return runs

    def check_complete(self) -> None:
        """Refuse a result without any image, or in the middle of one."""
        if self.seen or not self.images:
            raise ValueError(
                f"Expected finished images, found {self.images} and {self.seen} runs of an unfinished one. Call "
                "`finish` after the last run of each image."
            )


class GlobalDeviation:
    """G-STD of every metric: mean over images of the standard deviation of its value over runs (CCSR, Eq. 4).

    G-STD = 1/M sum_j sqrt(1/N sum_i (p_i^j - mean_i p_i^j)^2), in the unit of the metric. Sums are exact, so the
    order of runs does not matter.
    """

    def __init__(self) -> None:
        self._runs = _Runs()
        self._values: dict[str, list[float]] = {}
        self._deviations: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one run of the current image.

        Args:
            values: Per-image metrics by name; the same names in every run.

        Raises:
            ValueError: If the names differ from those before, or a value is not finite.
        """
        known = self._values or self._deviations
        if not values or (known and known.keys() != values.keys()):
            raise ValueError(
                f"Expected the metrics {sorted(known) or 'of a run'}, found {sorted(values)}. Measure every run alike."
            )
        numbers = {name: float(value) for name, value in values.items()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"Expected finite metrics, found {name} = {number}. Leave this metric out.")
        for name, number in numbers.items():
            self._values.setdefault(name, []).append(number)
        self._runs.seen += 1

    def finish(self) -> dict[str, float]:
        """Close the current image and return the deviation of each metric on it.

        Raises:
            ValueError: If it had fewer than two runs, or not as many as the images before.
        """
        self._runs.finish()
        own = {name: pstdev(values) for name, values in self._values.items()}  # exact fractions inside
        for name, deviation in own.items():
            self._deviations.setdefault(name, []).append(deviation)
        self._values = {}
        return own

    def compute(self) -> dict[str, float]:
        """G-STD of each metric.

        Raises:
            ValueError: If no image is finished, or one is begun but not finished.
        """
        self._runs.check_complete()
        return {name: fmean(deviations) for name, deviations in self._deviations.items()}


class LocalDeviation:
    """L-STD: mean over pixels and images of the standard deviation of a pixel over runs (CCSR, Eq. 5).

    L-STD = 1/(MHW) sum_j sum_hw sqrt(1/N sum_i (x_i - mean_i x_i)^2) on images in [0, 1]; the square, which the
    paper's formula has lost, is the one of Eq. 4. Here the pixels are rounded to 8 bits first, as in files, and the
    mean goes over the three channels of RGB too. Every image weighs the same, whatever its size; Eq. 5 knows one size.

    Only the sums of the current image are kept. They are sums of integers (the 256 levels and their squares), hence
    exact: no cancellation near zero, and the order of runs does not matter.
    """

    def __init__(self) -> None:
        self._runs = _Runs()
        self._sums: tuple[Tensor, Tensor] | None = None
        self._deviations: list[float] = []

    def add(self, image: Tensor) -> None:
        """Add one run of the current image.

        Args:
            image: Restored image in [0, 1], shape (3, H, W) or (1, 3, H, W).

        Raises:
            ValueError: If the shape is another one, differs between runs, or a pixel is not finite.
        """
        pixels = image.detach()[0] if image.dim() == 4 and image.shape[0] == 1 else image.detach()
        shape = (3, *pixels.shape[-2:]) if self._sums is None else tuple(self._sums[0].shape)
        if tuple(pixels.shape) != shape or not pixels.numel():
            raise ValueError(
                f"Expected one RGB image of shape (3, H, W), the same in every run, found {tuple(image.shape)}. "
                "Add images one by one, and call `finish` before the next image."
            )
        if not bool(torch.isfinite(pixels).all()):
            raise ValueError("Expected an image in [0, 1], found NaN or infinity. Check the weights and the precision.")
        levels = quantize(pixels.float()).mul(255.0).round().long().cpu()
        if self._sums is None:
            self._sums = torch.zeros_like(levels), torch.zeros_like(levels)
        self._sums[0].add_(levels)
        self._sums[1].add_(levels.square())
        self._runs.seen += 1

    def finish(self) -> float:
        """Close the current image and return its deviation, the mean over its pixels and channels.

        Raises:
            ValueError: If it had fewer than two runs, or not as many as the images before.
        """
        runs = self._runs.finish()
        assert self._sums is not None  # at least two runs were added
        total, squares = self._sums
        variance = runs * squares - total.square()  # integers: N^2 times the variance of the levels, exact
        deviation = variance.double().sqrt().mean().item() / (runs * 255.0)
        self._deviations.append(deviation)
        self._sums = None
        return deviation

    def compute(self) -> float:
        """L-STD in [0, 0.5].

        Raises:
            ValueError: If no image is finished, or one is begun but not finished.
        """
        self._runs.check_complete()
        return fmean(self._deviations)


class Stability:
    """G-STD and L-STD of one method together: for each image, `add` every run, then `finish`."""

    def __init__(self) -> None:
        self._global, self._local = GlobalDeviation(), LocalDeviation()

    def add(self, image: Tensor, values: Mapping[str, float]) -> None:
        """Add one run of the current image.

        Args:
            image: Restored image in [0, 1], shape (3, H, W) or (1, 3, H, W).
            values: Its metrics by name, without FID.

        Raises:
            ValueError: If image or metrics do not fit those before, or hold NaN.
        """
        self._local.add(image)
        self._global.add(values)

    def finish(self) -> dict[str, float]:
        """Close the current image and return its deviations, `l_std` among them.

        Raises:
            ValueError: If it had fewer than two runs, or not as many as the images before.
        """
        return self._global.finish() | {"l_std": self._local.finish()}

    def as_dict(self) -> dict[str, Any]:
        """Result as plain JSON values: `g_std` by metric, `l_std`, and the numbers of images and runs.

        Raises:
            ValueError: If no image is finished, or one is begun but not finished.
        """
        runs = self._local._runs
        return {
            "g_std": self._global.compute(),
            "l_std": self._local.compute(),
            "images": runs.images,
            "runs": runs.expected,
        }
