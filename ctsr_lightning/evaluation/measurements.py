"""Measurements of restorations by any number of methods over the same images, on one process or many."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from ctsr_lightning.evaluation.methods import Method, Restoration
from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.frechet import FrechetDistance
from ctsr_lightning.metrics.lattice import Lattice
from ctsr_lightning.metrics.stability import Stability


@dataclass(frozen=True)
class Row:
    """One image, restored by one method, measured.

    Args:
        key: The image.
        method: The method.
        seed: Seed of what the method drew.
        values: Metrics by name; NaN where the image has none.
        seconds: As in `Restoration`.
        further: As in `Restoration`.
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
        values: Means over images (and seeds) that have a value, NaN if none has; metrics of whole sets as they are.
        spread: Standard deviation over images of the per-image metrics.
        seconds: Mean time per image.
        further: Mean time for one more value of t, or α.
        stability: G-STD of each per-image metric, L-STD, and the numbers of images and runs; None for a single run.
    """

    method: Method
    values: Mapping[str, float]
    spread: Mapping[str, float]
    seconds: float | None
    further: float | None
    stability: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ImagePart:
    """All that was measured of one image, from which `Measurements.include` has the same bits as from the image.

    Args:
        rows: Its rows.
        truth: The lattices of its ground truth by metric.
        features: Feature vectors by method and metric over sets: of the restored image, and of its ground truth.
        deviations: Those of its runs by method; empty for a single run.
    """

    rows: list[Row]
    truth: Mapping[str, float]
    features: Mapping[tuple[str, str], tuple[Tensor, Tensor]]
    deviations: Mapping[str, dict[str, float]]


class Measurements:
    """Metrics of any number of methods over the same images.

    Args:
        metrics: Metrics by name: `ImageMean` for values per image, others for whole sets of images.
        device: Where the metrics are computed.
        border: Pixels that are cut off every side before anything is measured.
        truth: Whether the lattices of the ground truth itself are measured.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        device: torch.device | str = "cpu",
        border: int = 0,
        *,
        truth: bool = True,
    ) -> None:
        self.metrics = {name: metric.to(device) for name, metric in metrics.items()}
        self.device, self.border = torch.device(device), border
        self.rows: list[Row] = []
        lattices = [name for name, metric in self.metrics.items() if truth and isinstance(metric, Lattice)]
        self._truth: dict[str, dict[str, float]] = {name: {} for name in lattices}
        self._sets: dict[str, dict[str, Metric]] = {}
        self._stability: dict[str, Stability] = {}
        self._references: dict[str, tuple[Sequence[str], Tensor]] = {}
        self._kept: dict[tuple[str, str], tuple[Tensor, Tensor]] | None = None

    def of_one_image(self) -> Measurements:
        """Empty measurements by the same metrics, for the image that the next `part` is about."""
        other = copy.copy(self)
        other.clear()
        other._kept = {}
        return other

    def clear(self) -> None:
        """Forget all that was measured."""
        self.rows, self._truth = [], {name: {} for name in self._truth}
        self._sets, self._stability, self._references = {}, {}, {}

    def part(self) -> ImagePart:
        """What was measured, of measurements `of_one_image`."""
        truth = {name: value for name, values in self._truth.items() for value in values.values()}
        deviations = {label: deviations for label, s in self._stability.items() for deviations in s.finished}
        return ImagePart(self.rows, truth, self._kept or {}, deviations)

    def include(self, parts: Sequence[ImagePart]) -> None:
        """Add images that were measured before, or by another process.

        Args:
            parts: What was measured of each; feature vectors are added in one go, which rank-1 updates would take
                minutes for.
        """
        features: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
        for part in parts:
            self.rows += part.rows
            for name, value in part.truth.items():
                self._truth[name][part.rows[0].key] = value
            runs = Counter(row.method.label for row in part.rows)
            for label, deviations in part.deviations.items():
                self._stability.setdefault(label, Stability()).include(deviations, runs[label])
            for place, vectors in part.features.items():
                features.setdefault(place, []).append(vectors)
        for (label, name), pairs in features.items():
            restored, gt = (torch.cat(side).to(self.device) for side in zip(*pairs, strict=True))
            self._set(label, name).update(restored, gt, extracted=True)

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
    def runs(self) -> int:
        """Number of seeds of the method that had most."""
        return 1 + max((row.seed for row in self.rows), default=0)

    @property
    def images(self) -> int:
        """Number of images measured."""
        return len({row.key for row in self.rows})

    def add(self, key: str, restored: Restoration, gt: Tensor, seed: int = 0) -> None:
        """Measure a restored image.

        Args:
            key: Name of the image.
            restored: The image, and the method that restored it; from two runs on, its stability is measured.
            gt: Ground truth in [0, 1], shape (1, 3, H, W).
            seed: Seed of the run; runs 0, 1, … of an image follow each other.

        Raises:
            ValueError: If sizes differ, or a pixel is not finite.
        """
        method, image, seconds, further, runs = restored
        (row,) = self.add_batch([key], method, image, gt, seed, seconds, further)
        if runs > 1:
            stability = self._stability.setdefault(method.label, Stability())
            stability.add(self._prepared(image, key), {name: row.values[name] for name in self.stable})
            if seed == runs - 1:
                stability.finish()

    def add_batch(
        self,
        keys: Sequence[str],
        method: Method,
        restored: Tensor,
        gt: Tensor,
        seed: int = 0,
        seconds: float | None = None,
        further: float | None = None,
    ) -> list[Row]:
        """Measure images of one size that a method restored; each counts by itself, whatever the batch.

        Args:
            keys: Names of the images.
            method: The method.
            restored: RGB in [0, 1], shape (B, 3, H, W).
            gt: Ground truth of the same shape.
            seed: Seed of the run.
            seconds: As in `Row`.
            further: As in `Row`.

        Raises:
            ValueError: If sizes differ, or a pixel is not finite.
        """
        image, truth = (self._prepared(x, keys[0]) for x in (restored, gt))
        columns: dict[str, list[float]] = {}
        try:
            for name, metric in self.metrics.items():
                if name in self._truth and isinstance(metric, Lattice) and not self._truth[name].keys() >= set(keys):
                    self._truth[name].update(zip(keys, metric.values(truth).tolist(), strict=True))
                if isinstance(metric, ImageMean):
                    columns[name] = metric.values(image, truth).tolist()
                elif seed == 0:  # sets of images are compared over one run
                    self._add_to_set(method.label, name, keys, image, truth)
        except ValueError as error:
            raise ValueError(f"'{', '.join(keys)}' ({method.label}): {error}") from error
        rows = [
            Row(key, method, seed, {name: column[i] for name, column in columns.items()}, seconds, further)
            for i, key in enumerate(keys)
        ]
        self.rows += rows
        return rows

    def gather(self) -> None:
        """Merge the measurements of all processes of a distributed run; each of them must call it.

        Afterwards every process has all rows, by method and name of the image, so that means do not depend on the
        number of processes.

        Raises:
            ValueError: If an image was measured more than once.
        """
        parts: list[Any] = [(self.rows, self._truth)]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, (self.rows, self._truth))
        order = list(dict.fromkeys(row.method.label for rows, _ in parts for row in rows))
        self.rows = sorted(
            (row for rows, _ in parts for row in rows), key=lambda row: (order.index(row.method.label), row.key)
        )
        counts = Counter((row.method.label, row.key, row.seed) for row in self.rows)
        if twice := list(dict.fromkeys(key for (_, key, _), count in counts.items() if count > 1)):
            raise ValueError(
                f"Expected every image once, but {len(twice)} came more than once, such as {twice[:3]}. Give images "
                "unique keys; in distributed runs use Lightning's own sampler (`use_distributed_sampler: true`)."
            )
        for name, values in self._truth.items():
            for _, truth in parts:
                values.update(truth[name])
        for label in order:  # a process without images takes part in the reduction of sets all the same
            for name, metric in self.metrics.items():
                if not isinstance(metric, ImageMean):
                    self._set(label, name)

    def _add_to_set(self, label: str, name: str, keys: Sequence[str], image: Tensor, truth: Tensor) -> None:
        """Add images to the set of a method; ground truth goes through the feature network once for all methods."""
        metric = self.metrics[name]
        if not isinstance(metric, FrechetDistance):
            self._set(label, name).update(quantize(image), quantize(truth))
            return
        vectors = metric.extract(image)
        if self._references.get(name, ((),))[0] != keys:
            self._references[name] = keys, metric.extract(truth)
        references = self._references[name][1]
        if self._kept is None:
            self._set(label, name).update(vectors, references, extracted=True)
        else:
            self._kept[label, name] = vectors.cpu(), references.cpu()

    def _set(self, label: str, name: str) -> Metric:
        """The metric over the set of images that a method restored."""
        own = self._sets.setdefault(label, {})
        if name not in own:
            own[name] = self.metrics[name].clone()
            own[name].reset()
        return own[name]

    def _prepared(self, image: Tensor, key: str) -> Tensor:
        """Images on the metrics' device, float32, without borders."""
        image = image.to(self.device).float()
        if not self.border:
            return image
        if min(image.shape[-2:]) <= 2 * self.border:
            raise ValueError(
                f"'{key}' has {image.shape[-1]}x{image.shape[-2]} pixels: nothing is left within {self.border}."
            )
        return image[..., self.border : -self.border, self.border : -self.border]

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
                with warnings.catch_warnings():  # a process without images has updated nothing, which is no mistake
                    warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
                    values[name] = float(self._set(method.label, name).compute())
        times = (_mean(row.seconds for row in rows), _mean(row.further for row in rows))
        stability = self._stability[method.label].as_dict() if method.label in self._stability else None
        return Summary(method, values, spread, *times, stability)


def _centre(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that there are; NaN without any."""
    column = torch.tensor(list(values), dtype=torch.float64)
    column = column[~column.isnan()]
    return (float(column.mean()), float(column.std(correction=0))) if len(column) else (math.nan, math.nan)


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
