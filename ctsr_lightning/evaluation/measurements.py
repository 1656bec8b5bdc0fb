"""Measurements of restorations by any number of methods over the same images, and how a comparison runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ctsr_lightning.batch import Batch
from ctsr_lightning.evaluation.methods import Method, Methods, Restoration
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.lattice import Lattice
from ctsr_lightning.metrics.stability import Stability

if TYPE_CHECKING:
    from ctsr_lightning.evaluation.pictures import Examples


@dataclass(frozen=True)
class Row:
    """One image, restored by one method, measured.

    Args:
        key: The image.
        method: The method.
        seed: Seed of what the method drew.
        values: Metrics by name; NaN where the image has none.
        seconds: See `Restoration`.
        further: Likewise.
    """

    key: str
    method: Method
    seed: int
    values: Mapping[str, float]
    seconds: float | None
    further: float | None


@dataclass(frozen=True)
class Summary:
    """One method over all images.

    Args:
        method: The method.
        values: Means over images that have a value, NaN if none has; metrics of whole sets as they are.
        spread: Standard deviation over images of the per-image metrics.
        seconds: Mean time per image.
        further: Mean time for one more value of t.
        stability: G-STD of each per-image metric, L-STD, and the numbers of images and runs; None for a single run.
    """

    method: Method
    values: Mapping[str, float]
    spread: Mapping[str, float]
    seconds: float | None
    further: float | None
    stability: Mapping[str, Any] | None = None


class Measurements:
    """Metrics of any number of methods over the same images.

    Args:
        metrics: Metrics by name: `ImageMean` for values per image, others for whole sets of images.
        device: Where the metrics are computed.
        border: Pixels that are cut off every side before anything is measured.
        runs: How often a random method restores each image; from two on, its stability is measured.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], device: torch.device | str = "cpu", border: int = 0, runs: int = 1
    ) -> None:
        self.metrics = {name: metric.to(device) for name, metric in metrics.items()}
        self.device, self.border, self.runs = torch.device(device), border, runs
        self.rows: list[Row] = []
        self._truth: dict[str, dict[str, float]] = {n: {} for n, m in self.metrics.items() if isinstance(m, Lattice)}
        self._sets: dict[str, dict[str, Metric]] = {}
        self._stability: dict[str, Stability] = {}

    @property
    def higher_is_better(self) -> dict[str, bool | None]:
        """Direction of each metric; None where the best value lies in the middle, as for `grid_energy`."""
        return {name: metric.higher_is_better for name, metric in self.metrics.items()}

    @property
    def per_image(self) -> list[str]:
        """Names of the metrics that have a value per image."""
        return [name for name, metric in self.metrics.items() if isinstance(metric, ImageMean)]

    @property
    def stable(self) -> list[str]:
        """Names of those that every image has, whose deviation over runs is measured."""
        return [name for name, metric in self.metrics.items() if isinstance(metric, ImageMean) and not metric.partial]

    @property
    def ground_truth(self) -> dict[str, float]:
        """The ground truth's own lattices, means over images; NaN if no image has a value."""
        return {name: _centre(values.values())[0] for name, values in self._truth.items()}

    @property
    def images(self) -> int:
        """Number of images measured."""
        return len({row.key for row in self.rows})

    def add(self, key: str, restored: Restoration, gt: Tensor, seed: int = 0) -> None:
        """Measure a restored image.

        Args:
            key: Name of the image.
            restored: The image, and what made it.
            gt: Ground truth in [0, 1], shape (1, 3, H, W).
            seed: Seed of the run; runs 0, 1, … of an image follow each other.

        Raises:
            ValueError: If sizes differ, or a pixel is not finite.
        """
        method, image = restored.method, restored.image.to(self.device).float()
        truth = gt.to(self.device).float()
        if self.border:
            image, truth = (_cut(x, self.border, key) for x in (image, truth))
        values = {}
        try:
            for name, metric in self.metrics.items():
                if isinstance(metric, Lattice) and key not in self._truth[name]:
                    self._truth[name][key] = float(metric.values(truth))
                if isinstance(metric, ImageMean):
                    values[name] = float(metric.values(image, truth))
                elif seed == 0:  # sets of images are compared over one run
                    own = self._sets.setdefault(method.label, {})
                    if name not in own:
                        own[name] = metric.clone()
                        own[name].reset()
                    own[name].update(image, truth)
        except ValueError as error:
            raise ValueError(f"'{key}' ({method.label}): {error}") from error
        self.rows.append(Row(key, method, seed, values, restored.seconds, restored.further))
        if self.runs > 1:
            stability = self._stability.setdefault(method.label, Stability())
            stability.add(image, {name: values[name] for name in self.stable})
            if seed == self.runs - 1:
                stability.finish()

    def summaries(self) -> list[Summary]:
        """One summary per method, in the order of measurement."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.method.label, []).append(row)
        return [self._summary(rows) for rows in grouped.values()]

    def _summary(self, rows: Sequence[Row]) -> Summary:
        method = rows[0].method
        values, spread = {}, {}
        for name, metric in self.metrics.items():
            if isinstance(metric, ImageMean):
                values[name], spread[name] = _centre(row.values[name] for row in rows)
            else:
                values[name] = float(self._sets[method.label][name].compute())
        times = (_mean(row.seconds for row in rows), _mean(row.further for row in rows))
        stability = self._stability[method.label].as_dict() if self.runs > 1 else None
        return Summary(method, values, spread, *times, stability)


def measure_methods(
    methods: Methods, batches: Iterable[Batch], measurements: Measurements, examples: Examples | None = None
) -> None:
    """Restore every image by every method and measure the results; a first, unmeasured pass warms the device up.

    Args:
        methods: The methods.
        batches: Images one by one, with their ground truth.
        measurements: Where the results go.
        examples: Where the first images go to be looked at.
    """
    warm = False
    for batch in batches:
        assert batch.gt is not None
        size = (batch.gt.shape[-2], batch.gt.shape[-1])
        if not warm:
            for _ in methods.restore(batch.lq, size, keys=batch.key):
                pass
            warm = True
        if examples is not None:
            examples.begin(batch.lq)
        for seed in range(measurements.runs):
            for restored in methods.restore(batch.lq, size, seed, batch.key):
                measurements.add(batch.key[0], restored, batch.gt, seed)
                if examples is not None and seed == 0:
                    examples.add(restored)
        if examples is not None:
            examples.end(batch.gt)


def load_batches(module: Any, limit: int | None = None) -> tuple[Iterator[Batch], int]:
    """The test images of a data module one by one, and how many there are.

    Args:
        module: The data module.
        limit: Number of images to stop after.

    Raises:
        ValueError: If it is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Expected --limit of at least 1, got {limit}.")
    module.setup("test")
    loader = module.test_dataloader()
    total = min(len(loader), limit or len(loader))
    return (batch for _, batch in zip(range(total), loader, strict=False)), total


def _cut(image: Tensor, border: int, key: str) -> Tensor:
    if min(image.shape[-2:]) <= 2 * border:
        raise ValueError(f"'{key}' has {image.shape[-1]}x{image.shape[-2]} pixels: nothing is left within {border}.")
    return image[..., border:-border, border:-border]


def _centre(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that there are; NaN without any."""
    column = torch.tensor(list(values), dtype=torch.float64)
    column = column[~column.isnan()]
    return (float(column.mean()), float(column.std(correction=0))) if len(column) else (math.nan, math.nan)


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
