"""What `make claims` has measured, ready to be compared: means and spreads, curves, distances between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from ctsr_lightning.evaluation.frontier import Axis, Comparison, Monotone, Point, compare, monotone
from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, REALISTIC
from ctsr_lightning.evaluation.plots import control_label
from recipes.claims.plan import ALPHAS, BASE, CONTROLS, FULL, MIXED, TEACHERS, blend_label
from recipes.claims.records import Record

PSNR: Final = Axis("psnr_y", higher_is_better=True)


class Estimate(NamedTuple):
    """A mean over repetitions and how far it can be trusted.

    Args:
        mean: The mean.
        sd: Standard deviation of the repetitions, NaN for a single one.
        repeats: Number of repetitions.
    """

    mean: float
    sd: float
    repeats: int

    @property
    def se(self) -> float:
        """Standard error of the mean, NaN for a single repetition."""
        return self.sd / math.sqrt(self.repeats)

    @property
    def sign(self) -> int:
        """1 or -1 if the mean lies more than two standard errors above or below 0, 0 if not; its sign if single."""
        reach = 0.0 if self.repeats == 1 else 2.0 * self.se
        return (self.mean > reach) - (self.mean < -reach)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of repetitions with its spread.

    Args:
        values: At least one value.
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean, math.nan, 1)
    return Estimate(mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


def difference(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate:
    """The mean over seeds of what a variation changes, each against the base of the same seed.

    Args:
        values: The variation's value by seed.
        base: The base's value by seed.

    Raises:
        ValueError: If they have no seed in common.
    """
    common = sorted(values.keys() & base.keys())
    if not common:
        raise ValueError(f"Expected a seed in common, found {sorted(values)} and {sorted(base)}.")
    return estimate([values[seed] - base[seed] for seed in common])


def signed(value: Estimate, digits: int = 4) -> str:
    """`+0.1234 ± 0.0100`, mean and standard deviation.

    Args:
        value: The estimate.
        digits: Decimals.
    """
    spread = "" if math.isnan(value.sd) else f" ± {value.sd:.{digits}f}"
    return f"{value.mean:+.{digits}f}{spread}"


class Findings:
    """All records, ready to be compared.

    Args:
        measured: Records of what was measured without training, by name.
        trained: Records by variation (`stage1/base`) and seed.
        perceptual: Name of the perceptual distance.
    """

    def __init__(
        self, measured: Mapping[str, Record], trained: Mapping[str, Mapping[int, Record]], perceptual: str
    ) -> None:
        self.measured, self.trained = dict(measured), {k: dict(v) for k, v in trained.items() if v}
        self.perceptual = perceptual
        self.axes = (PSNR, Axis(perceptual, higher_is_better=False))

    def values(self, key: str, metric: str, method: str = "t=0.00") -> dict[int, float]:
        """A metric of a variation by seed, a mean over images.

        Args:
            key: The variation.
            metric: The metric.
            method: What restored.
        """
        return {seed: record.mean(method, metric) for seed, record in self.trained[key].items()}

    def point(self, record: Record, method: str, label: str | None = None) -> Point:
        """A method on the plane.

        Args:
            record: Where it was measured.
            method: The method.
            label: What to call it; by default as the method.
        """
        values = record.means(method)
        return Point(label or method, values[PSNR.name], values[self.perceptual], values)

    def blend(self, alphas: Sequence[float] = ALPHAS) -> list[Point]:
        """The blend of the teachers from T_r to T_f.

        Args:
            alphas: Shares of T_f in between.
        """
        teachers = self.measured[TEACHERS]
        inner = [self.point(teachers, blend_label(alpha)) for alpha in alphas]
        return [self.point(teachers, REALISTIC), *inner, self.point(teachers, FAITHFUL)]

    def sweep(self, record: Record) -> list[Point]:
        """A model over t.

        Args:
            record: Where it was measured.
        """
        return [self.point(record, control_label(control)) for control in CONTROLS]

    def mixture(self, record: Record) -> list[Point]:
        """The blend of a model's image at t = 0 with T_f's, its ends included.

        Args:
            record: Where it was measured.
        """
        inner = [self.point(record, f"{MIXED}{alpha:.1f}", blend_label(alpha)) for alpha in CONTROLS[1:-1]]
        return [self.point(record, "t=0.00", "S_1"), *inner, self.point(self.measured[TEACHERS], FAITHFUL)]

    def everything(self) -> list[Point]:
        """All points of all curves, which make the box that hypervolumes are shares of."""
        records = [*self.trained.get(f"stage2/{BASE}", {}).values(), *self.full()]
        others = [r for k, v in self.trained.items() if k.startswith("stage2/") for r in v.values()]
        sweeps = [point for record in [*records, *others] for point in self.sweep(record)]
        mixtures = [point for record in records for point in self.mixture(record)]
        return [*sweeps, *mixtures, *self.blend(), self.point(self.measured[TEACHERS], BICUBIC)]

    def against_blend(self, record: Record) -> Comparison:
        """A model's curve over t against the blend of the teachers at as many points.

        Args:
            record: Where it was measured.
        """
        return compare(
            self.sweep(record), self.blend(CONTROLS[1:-1]), self.everything(), *self.axes, ("sweep", "blend")
        )

    def against_mixture(self, record: Record) -> Comparison:
        """A model's curve over t against the blend of its own image at t = 0 with T_f's.

        Args:
            record: Where it was measured.
        """
        names = ("sweep", "S_1 + T_f")
        return compare(self.sweep(record), self.mixture(record), self.everything(), *self.axes, names)

    def outside(self, point: Point) -> float:
        """How far a point lies outside what the blend of the teachers reaches, see `reach`.

        Args:
            point: The point.
        """
        return reach(point, self.blend(), *self.axes)

    def outside_by_seed(self, key: str) -> dict[int, float]:
        """How far a variation's image at t = 0 lies outside what the blend of the teachers reaches, by seed.

        Args:
            key: The variation.
        """
        return {seed: self.outside(self.point(record, "t=0.00")) for seed, record in self.trained[key].items()}

    def full(self) -> list[Record]:
        """The record of the chain's own stages, trained at full length, if there is one."""
        return [self.measured[FULL]] if FULL in self.measured else []

    def monotone(self, record: Record) -> tuple[Monotone, Monotone]:
        """Whether PSNR-Y rises and the perceptual distance worsens from t = 0 to 1.

        Args:
            record: Where it was measured.
        """
        points = self.sweep(record)
        labels = [point.label for point in points]
        x, y = self.axes
        return (
            monotone(labels, [point.x for point in points], x, improving=True),
            monotone(labels, [point.y for point in points], y, improving=False),
        )


def reach(point: Point, curve: Sequence[Point], x: Axis, y: Axis) -> float:
    """Signed distance of a point from what a curve reaches: positive outside, negative inside.

    It is the least amount by which the curve would have to improve on both axes at once to be nowhere worse than the
    point (the additive ε-indicator of Zitzler et al. 2003), in units of the curve's extent on each axis. Between its
    points the curve is taken as straight.

    Args:
        point: The point.
        curve: The curve's points in order, two at least.
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


def lead(point: Point, curve: Sequence[Point], x: Axis, y: Axis) -> float | None:
    """By how much a point is better on the vertical axis than the best of a curve that is no worse on the horizontal.

    Args:
        point: The point.
        curve: The curve's points in order; between them it is taken as straight.
        x: The horizontal metric.
        y: The vertical metric.

    Returns:
        The lead in units of y, negative if the point lies behind; None if the curve does not reach as far.
    """
    across, up = (1.0 if axis.higher_is_better else -1.0 for axis in (x, y))
    places = [(across * (p.x - point.x), up * p.y) for p in curve]
    rivals = [height for ahead, height in places if ahead >= 0.0]
    for (a, b), (c, d) in pairwise(places):
        if a * c < 0.0:  # in between there is a place straight above or below the point
            rivals.append(b + (d - b) * a / (a - c))
    return up * point.y - max(rivals) if rivals else None
