"""Stability of a stochastic method over seeds: G-STD and L-STD of CCSR (Sun et al., Eq. 4 and 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.images import quantize


class Stability:
    """Population standard deviations over N runs of an image, averaged over images; 0 is deterministic, exactly.

    G-STD = 1/M Σ_j √(1/N Σ_i (p_i^j - mean_i p_i^j)²) per metric p, in its unit; there is none for FID, a property of
    the whole set. L-STD = 1/(MHW) Σ_j Σ_hw √(1/N Σ_i (x_i - mean_i x_i)²) in [0, 0.5] on RGB images rounded to 8 bits,
    with the square that the paper's formula has lost; every image weighs the same, whatever its size. Sums are exact,
    so the order of runs does not matter. For each image, `add` every run, then `finish`.
    """

    def __init__(self) -> None:
        self._values: list[dict[str, float]] = []  # of the current image, one per run
        self._sums: tuple[Tensor, Tensor] | None = None  # of its levels 0..255 and of their squares, integers
        self._deviations: list[dict[str, float]] = []  # of the images before
        self._runs: int | None = None

    def add(self, image: Tensor, values: Mapping[str, float]) -> None:
        """Add one run of the current image.

        Args:
            image: Restored image in [0, 1], shape (3, H, W) or (1, 3, H, W).
            values: Its metrics by name, without FID; the same names in every run.

        Raises:
            ValueError: If image or metrics do not fit those before, or are not finite.
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
        known = next(iter([*self._values, *self._deviations]), values).keys() - {"l_std"}
        if known != values.keys():
            raise ValueError(f"Expected the metrics {sorted(known)}, found {sorted(values)}. Measure every run alike.")
        for name, number in values.items():
            if not math.isfinite(number):
                raise ValueError(f"Expected finite metrics, found {name} = {number}. Leave this metric out.")
        levels = quantize(pixels.float()).mul(255.0).round().long().cpu()
        total, squares = self._sums or (torch.zeros_like(levels), torch.zeros_like(levels))
        self._sums = total + levels, squares + levels.square()
        self._values.append({name: float(number) for name, number in values.items()})

    def finish(self) -> dict[str, float]:
        """Close the current image and return its deviations, `l_std` among them.

        Raises:
            ValueError: If it had fewer than two runs, or not as many as the images before.
        """
        runs = len(self._values)
        if runs < 2 or self._sums is None:
            raise ValueError(f"Expected at least 2 runs of each image for a deviation, found {runs}. Use more seeds.")
        if self._runs not in {None, runs}:
            raise ValueError(
                f"Expected {self._runs} runs, as of the images before, found {runs}. Run every image with the same "
                "seeds."
            )
        total, squares = self._sums
        variance = runs * squares - total.square()  # N² times the variance of the levels, exact
        own = {name: pstdev(run[name] for run in self._values) for name in self._values[0]}  # exact fractions inside
        own["l_std"] = variance.double().sqrt().mean().item() / (runs * 255.0)
        self._deviations.append(own)
        self._values, self._sums, self._runs = [], None, runs
        return own

    @property
    def finished(self) -> list[dict[str, float]]:
        """The deviations of each finished image, as `finish` returns them."""
        return self._deviations

    def include(self, deviations: dict[str, float], runs: int) -> None:
        """Add an image that another object has finished.

        Args:
            deviations: What its `finish` returned.
            runs: The number of its runs.
        """
        self._deviations.append(deviations)
        self._runs = runs

    def as_dict(self) -> dict[str, Any]:
        """Result as plain JSON values: `g_std` by metric, `l_std`, and the numbers of images and runs.

        Raises:
            ValueError: If no image is finished, or one is begun but not finished.
        """
        images = len(self._deviations)
        if self._values or not images:
            raise ValueError(
                f"Expected finished images, found {images} and {len(self._values)} runs of an unfinished one. Call "
                "`finish` after the last run of each image."
            )
        means = {name: fmean(deviations[name] for deviations in self._deviations) for name in self._deviations[0]}
        return {"l_std": means.pop("l_std"), "g_std": means, "images": images, "runs": self._runs}
