"""What `evaluate` and `sweep` share: the images to measure, the methods that restore them, the measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ctsr_lightning.batch import Batch
from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, REALISTIC
from ctsr_lightning.evaluation.plots import control_label
from ctsr_lightning.inference.color import correct
from ctsr_lightning.inference.experts import Expert, blends
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.lattice import Lattice
from ctsr_lightning.metrics.stability import Stability
from ctsr_lightning.networks.student import upsample

if TYPE_CHECKING:
    from ctsr_lightning.evaluation.pictures import Examples

Result = TypeVar("Result")


class Method(NamedTuple):
    """What restored an image."""

    label: str
    """Name in tables: `t=0.50`, `T_f`, `x (SwinIR)`, `blend α=0.50`, `bicubic`, `restored` for finished files."""
    kind: Literal["ctsr", "teacher", "expert", "blend", "bicubic", "restored"]
    """What it is."""
    parameter: float | None = None
    """t of `ctsr`, α of `blend`."""


class Restoration(NamedTuple):
    """An image that a method restored."""

    method: Method
    """The method."""
    image: Tensor
    """RGB in [0, 1], shape (1, 3, H, W)."""
    seconds: float | None = None
    """Time to restore this image in this one way."""
    further: float | None = None
    """Time for this way alone, once the pass that all values of t share has been made."""


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


class Contestants:
    """All that restores the images of a comparison: the model at several t, teachers, their blend, experts, bicubic.

    Args:
        restorer: The model.
        controls: Values of t.
        experts: Teachers by label, `T_f` and `T_r`, of which the blend needs both; and others of any name.
        alphas: Shares of T_f in the blend α T_f + (1 - α) T_r.
        bicubic: Whether bicubic enlargement takes part.
    """

    def __init__(
        self,
        restorer: Restorer,
        controls: Sequence[float],
        experts: Mapping[str, Expert] | None = None,
        alphas: Sequence[float] = (),
        *,
        bicubic: bool = True,
    ) -> None:
        self.restorer, self.controls, self.experts = restorer, list(controls), dict(experts or {})
        self.alphas = list(alphas) if {FAITHFUL, REALISTIC} <= self.experts.keys() else []
        self.bicubic = bicubic

    def restore(
        self, lq: Tensor, size: tuple[int, int], seed: int = 0, keys: list[str] | None = None
    ) -> Iterator[Restoration]:
        """Restore an image by every method, one after the other.

        Args:
            lq: RGB in [0, 1], shape (1, 3, h, w).
            size: Height and width of the result, for bicubic enlargement.
            seed: Seed of methods that draw random numbers.
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        from ctsr_lightning.images import enlarge

        lq = lq.to(self.restorer.device)
        if self.bicubic:
            image, seconds = self._timed(lambda: enlarge(lq, lq.new_empty(1, 3, *size)))
            yield Restoration(Method(BICUBIC, "bicubic"), image, seconds)
        ends: dict[str, tuple[Tensor, float]] = {}
        for label, expert in self.experts.items():
            ends[label] = self._timed(partial(self._expertise, expert, lq, seed, keys))
            yield Restoration(Method(label, "teacher" if label in {FAITHFUL, REALISTIC} else "expert"), *ends[label])
        if self.alphas:
            both = ends[FAITHFUL][1] + ends[REALISTIC][1]
            images = blends(ends[FAITHFUL][0], ends[REALISTIC][0], self.alphas)
            for alpha in self.alphas:
                image, seconds = self._timed(lambda: next(images))
                label = f"blend α={control_label(alpha).removeprefix('t=')}"
                yield Restoration(Method(label, "blend", alpha), image, both + seconds, seconds)
        del ends
        self.restorer.seed = seed
        trajectory, shared = self._timed(lambda: self.restorer.trajectory(lq, keys))
        for control in self.controls:
            image, own = self._timed(partial(self.restorer.decode, trajectory, control))
            yield Restoration(Method(control_label(control), "ctsr", control), image, shared + own, own)

    def _expertise(self, expert: Expert, lq: Tensor, seed: int, keys: list[str] | None) -> Tensor:
        """A teacher's restoration, its colours corrected as the model's are."""
        image, color = expert(lq, seed, keys), self.restorer.color
        return image if color == "none" else correct(image, upsample(lq, self.restorer.scale), color)

    def _timed(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Do some work and wait until the device has done it, too."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        return result, time.perf_counter() - start

    def _wait(self) -> None:
        if self.restorer.device.type == "cuda":
            torch.cuda.synchronize(self.restorer.device)


def compete(
    contestants: Contestants, batches: Iterable[Batch], measurements: Measurements, examples: Examples | None = None
) -> None:
    """Restore every image by every method and measure the results; a first, unmeasured pass warms the device up.

    Args:
        contestants: The methods.
        batches: Images one by one, with their ground truth.
        measurements: Where the results go.
        examples: Where the first images go to be looked at.
    """
    warm = False
    for batch in batches:
        assert batch.gt is not None
        size = (batch.gt.shape[-2], batch.gt.shape[-1])
        if not warm:
            for _ in contestants.restore(batch.lq, size, keys=batch.key):
                pass
            warm = True
        if examples is not None:
            examples.begin(batch.lq)
        for seed in range(measurements.runs):
            for restored in contestants.restore(batch.lq, size, seed, batch.key):
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
