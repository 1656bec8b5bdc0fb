"""Measurements of all experiments, ready to be compared: means over images, estimates over seeds, curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

import pandas as pd

from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, GRID, REALISTIC, control_label
from ctsr_lightning.frontier import Axis, Comparison, Monotone, Point, compare, monotone
from recipes.claims.experiments import (
    ALPHAS,
    CONTROLS,
    FULL,
    MORE_L2,
    NO_DISTILLATION,
    STAGE_2,
    TEACHERS,
    Experiment,
)

PSNR: Final = Axis("psnr_y", higher_is_better=True)
START: Final = control_label(0.0)
"""The image at t = 0: S_1's."""


def blend_label(alpha: float) -> str:
    """Label of the blend with a share α of T_f in `Methods`."""
    return f"blend α={alpha:.2f}"


class Estimate(NamedTuple):
    """A mean over repetitions, their standard deviation (NaN for a single one), and their number."""

    mean: float
    sd: float
    repeats: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """Mean and sample standard deviation of at least one value."""
        column = pd.Series(list(values), dtype=float)
        return cls(float(column.mean()), float(column.std(ddof=1)), len(column))

    @property
    def se(self) -> float:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.repeats)

    @property
    def sign(self) -> int:
        """1 or -1 if the mean lies more than two standard errors above or below 0, else 0; its sign if single."""
        reach = 0.0 if self.repeats == 1 else 2.0 * self.se
        return (self.mean > reach) - (self.mean < -reach)

    def text(self, digits: int = 4, *, sign: bool = False, bold: bool = False) -> str:
        """Mean ± standard deviation, `25.123 ± 0.010`; with `bold`, marked where it lies beyond two standard errors."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        text = mean if math.isnan(self.sd) else f"{mean} ± {self.sd:.{digits}f}"
        return f"**{text}**" if bold and self.sign and not math.isnan(self.sd) else text


def paired_difference(values: pd.Series[float], base: pd.Series[float]) -> Estimate:
    """Mean difference of two columns over the index (seeds, images) that they share.

    Raises:
        ValueError: If they share none.
    """
    difference = (values - base).dropna()
    if difference.empty:
        raise ValueError(f"Expected a seed in common, found {list(values.index)} and {list(base.index)}.")
    return Estimate.of(difference)


class Findings:
    """All measurements.

    Args:
        measurements: Columns experiment (its key), seed, image, method, metric and value.
        experiments: All experiments in the order of the tables.
        minutes: Duration of a training by its experiment's key.
    """

    def __init__(
        self,
        measurements: pd.DataFrame,
        experiments: Sequence[Experiment],
        minutes: Mapping[str, float] | None = None,
    ) -> None:
        self.minutes = dict(minutes or {})
        by_image = measurements.set_index(["experiment", "method", "metric", "image"])
        self._images = by_image["value"].sort_index()
        self.means = measurements.pivot_table("value", ["experiment", "seed", "method"], "metric")
        self.experiments = [e for e in experiments if e.key in self.means.index.levels[0]]
        (self.perceptual,) = {*self.means.columns} - {PSNR.name, GRID}
        self.axes = (PSNR, Axis(self.perceptual, higher_is_better=False))
        self._teachers = {e.key: e.teachers for e in self.experiments}
        self.full = FULL in self.means.index.levels[0]

    def metric(self, key: str, metric: str, method: str = START) -> pd.Series[float]:
        """A metric by seed, means over images."""
        return self.means.xs((key, method), level=("experiment", "method"))[metric]

    def change(self, key: str, base: str, metric: str) -> Estimate:
        """Change of a metric at t = 0 from one experiment to another, each seed against the same seed."""
        return paired_difference(self.metric(key, metric), self.metric(base, metric))

    def images(self, method: str, metric: str, teachers: str = TEACHERS) -> pd.Series[float]:
        """A metric of the teachers, their blend or bicubic enlargement by image."""
        return self._images.loc[(teachers, method, metric)]

    def by_seed(self, key: str, function: Callable[[str, int], Any]) -> pd.Series[Any]:
        """A function of experiment and seed, for every seed of the experiment."""
        return pd.Series({seed: function(key, seed) for seed in self.means.loc[key].index.unique("seed")})

    def tried(self, weight: str) -> list[Experiment]:
        """The experiments that replace this weight of the loss alone."""
        return [e for e in self.experiments if [*e.overrides] == [weight]]

    def point(self, key: str, seed: int, method: str = START, label: str | None = None) -> Point:
        """A method on the perception-distortion plane."""
        row = self.means.loc[(key, seed, method)]
        return Point(label or method, float(row[PSNR.name]), float(row[self.perceptual]))

    @property
    def teachers(self) -> list[Experiment]:
        """The measurements of the teachers: with T_f as configured, then at other temperatures."""
        return [e for e in self.experiments if e.group == "chain" and e.key != FULL]

    def blend(self, alphas: Sequence[float] = ALPHAS, teachers: str = TEACHERS) -> list[Point]:
        """The blend of the teachers from T_r to T_f, with these shares of T_f in between."""
        inner = [self.point(teachers, 0, blend_label(alpha), f"α={alpha:.1f}") for alpha in alphas]
        return [self.point(teachers, 0, REALISTIC), *inner, self.point(teachers, 0, FAITHFUL)]

    def sweep(self, key: str, seed: int) -> list[Point]:
        """A student over t."""
        return [self.point(key, seed, control_label(t)) for t in CONTROLS]

    def mixture(self, key: str, seed: int) -> list[Point]:
        """The blend of a student's image at t = 0, S_1, with T_f's, ends included."""
        inner = [self.point(key, seed, blend_label(alpha), f"α={alpha:.1f}") for alpha in CONTROLS[1:-1]]
        return [self.point(key, seed, START, "S_1"), *inner, self.point(TEACHERS, 0, FAITHFUL)]

    @cached_property
    def everything(self) -> list[Point]:
        """All points of all curves: hypervolumes are shares of their box."""
        blends = [point for e in self.teachers for point in self.blend(teachers=e.key)]
        everything = [*blends, self.point(TEACHERS, 0, BICUBIC)]
        for key in (e.key for e in self.experiments if e.group == "stage2" or e.key == FULL):
            curves = [self.sweep, self.mixture] if key in {STAGE_2, FULL} else [self.sweep]
            everything += [p for curve in curves for points in self.by_seed(key, curve) for p in points]
        return everything

    def against_blend(self, key: str, seed: int) -> Comparison:
        """A student's curve over t against the blend of its teachers at as many points."""
        curves = self.sweep(key, seed), self.blend(CONTROLS[1:-1], self._teachers[key])
        return compare(*curves, self.everything, *self.axes, ("sweep", "blend"))

    def against_mixture(self, key: str, seed: int) -> Comparison:
        """A student's curve over t against the blend of its image at t = 0 with T_f's."""
        curves = self.sweep(key, seed), self.mixture(key, seed)
        return compare(*curves, self.everything, *self.axes, ("sweep", "S_1 + T_f"))

    def hypervolume(self, key: str, seed: int) -> float:
        """Hypervolume of a student's curve over t, a share of the box of `everything`."""
        return self.against_blend(key, seed).curve.hypervolume

    def outside(self, key: str, seed: int) -> float:
        """Distance of a student's image at t = 0 from the blend of the teachers, see `epsilon_distance`."""
        return epsilon_distance(self.point(key, seed), self.blend(), *self.axes)

    def lead_over_l2(self, key: str, seed: int) -> float:
        """Lead of a student's image at t = 0 over trainings without teachers and with more λ_l2, at its PSNR.

        Beyond the PSNR of these the lead is over the nearest of them.
        """
        curve = [self.point(other, seed) for other in (NO_DISTILLATION, *MORE_L2)]
        point = self.point(key, seed)
        lead = lead_at_equal_psnr(point, curve, *self.axes)
        return max(curve, key=lambda p: p.x).y - point.y if lead is None else lead

    def monotone(self, key: str, seed: int) -> list[Monotone]:
        """Whether PSNR-Y improves and the perceptual distance worsens from t = 0 to 1."""
        points, (x, y) = self.sweep(key, seed), self.axes
        labels = [point.label for point in points]
        return [
            monotone(labels, [point.x for point in points], x, improving=True),
            monotone(labels, [point.y for point in points], y, improving=False),
        ]


def epsilon_distance(point: Point, curve: Sequence[Point], x: Axis, y: Axis) -> float:
    """Signed distance of a point from the region that a curve dominates: positive outside, negative inside.

    The least amount by which the curve would have to improve on both axes at once to be nowhere worse than the point
    (the additive ε-indicator of Zitzler et al. 2003), in units of the curve's extent on each axis.

    Args:
        point: The point.
        curve: At least two points in order, joined by straight lines.
        x: The horizontal metric.
        y: The vertical metric.

    Raises:
        ValueError: If all points of the curve agree on an axis.
    """
    spans = [max(values) - min(values) for values in ([p.x for p in curve], [p.y for p in curve])]
    if min(spans) <= 0.0:
        raise ValueError(f"Expected the blend's points to differ in {x.name} and in {y.name}, they agree in one.")
    across, up = (1.0 if axis.higher_is_better else -1.0 for axis in (x, y))
    short = [(across * (point.x - p.x) / spans[0], up * (point.y - p.y) / spans[1]) for p in curve]
    found = [max(place) for place in short]
    for (a, b), (c, d) in pairwise(short):
        if (a - b) * (c - d) < 0.0:  # in between there is a place that falls short by the same on both axes
            found.append(a + (c - a) * (a - b) / ((a - b) - (c - d)))
    return min(found)


def lead_at_equal_psnr(point: Point, curve: Sequence[Point], x: Axis, y: Axis) -> float | None:
    """Lead of a point, in units of y, over the best of a curve that is no worse on x; negative if it lies behind.

    Args:
        point: The point.
        curve: Points in order, joined by straight lines.
        x: The horizontal metric.
        y: The vertical metric.

    Returns:
        The lead; None if the curve does not reach as far.
    """
    across, up = (1.0 if axis.higher_is_better else -1.0 for axis in (x, y))
    places = [(across * (p.x - point.x), up * p.y) for p in curve]
    rivals = [height for ahead, height in places if ahead >= 0.0]
    for (a, b), (c, d) in pairwise(places):
        if a * c < 0.0:  # in between there is a place straight above or below the point
            rivals.append(b + (d - b) * a / (a - c))
    return up * point.y - max(rivals) if rivals else None
