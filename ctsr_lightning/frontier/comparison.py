"""Comparison of two curves on the perception-distortion plane: dominance and hypervolume.

A curve is its measured points, in
order, joined by straight lines, so that points on such a line change nothing. Whether a difference is larger than
chance is not judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctsr_lightning.frontier.plane import Axis, Point, oriented, signs
from ctsr_lightning.frontier.polyline import dominated_area, standing

TOLERANCE = 1e-9
"""Share of the box of all points within which a point counts as lying on a curve: rounding of straight lines."""


def dominates(a: Point, b: Point, x: Axis, y: Axis) -> bool:
    """Whether `a` Pareto-dominates `b`: nowhere worse, and better on at least one axis.

    Args:
        a: The one point.
        b: The other point.
        x: The horizontal metric.
        y: The vertical metric.

    Raises:
        ValueError: If a value is not finite.
    """
    left, right = oriented([a, b], x, y)
    return _covers(left, right) and left != right


def hypervolume(curve: Iterable[Point], reference: tuple[float, float], x: Axis, y: Axis) -> float:
    """Area that a curve dominates above a reference point, exact, in units of x times units of y.

    What is not better than the reference on both axes adds nothing.

    Args:
        curve: Its points, joined by straight lines in this order.
        reference: Values (x, y) of the reference point.
        x: The horizontal metric.
        y: The vertical metric.

    Raises:
        ValueError: If a value is not finite.
    """
    (origin_x, origin_y), *corners = oriented([Point("reference", *reference), *curve], x, y)
    line = [(a - origin_x, b - origin_y) for a, b in corners]
    return dominated_area(line)


@dataclass(frozen=True)
class Side:
    """One curve's part in a comparison.

    Args:
        name: Name of the curve.
        points: Number of its measured points.
        dominated: How many of them the other curve dominates.
        equalled: How many of them lie on the other curve, not dominated.
        range_x: Smallest and largest value on the horizontal axis.
        range_y: Likewise on the vertical axis.
        hypervolume: Area dominated above the reference, as a share of the box of all points, in [0, 1].
        beats_all: Labels of its points that are better than every point of the other curve on both axes.
    """

    name: str
    points: int
    dominated: int
    equalled: int
    range_x: tuple[float, float]
    range_y: tuple[float, float]
    hypervolume: float
    beats_all: tuple[str, ...] = ()

    def wins(self, other: Side) -> bool:
        """Whether no point of this curve is dominated, and all of the other's are, or lie on this one.

        Args:
            other: The other curve's part.
        """
        return self.dominated == 0 and other.dominated + other.equalled == other.points


@dataclass(frozen=True)
class Comparison:
    """A curve against another one.

    Args:
        x: The horizontal metric.
        y: The vertical metric.
        curve: The curve.
        other: What it is compared with.
        reference: The worst x and the worst y among all points given: the corner from which hypervolume counts.
        best: The best x and the best y among them: the opposite corner of the box.
    """

    x: Axis
    y: Axis
    curve: Side
    other: Side
    reference: tuple[float, float]
    best: tuple[float, float]

    @property
    def dominates(self) -> bool:
        """Whether the curve dominates or holds every point of the other, none of its own is dominated, and it is fair.

        It is unfair if the other has fewer points: a curve that was measured at few places is cut short between them.
        """
        return self.curve.wins(self.other) and self.other.points >= self.curve.points

    @property
    def dominated(self) -> bool:
        """The same with the two curves exchanged."""
        return self.other.wins(self.curve) and self.curve.points >= self.other.points

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        sides = {key: asdict(side) for key, side in (("curve", self.curve), ("other", self.other))}
        for side in sides.values():
            side |= {key: list(side[key]) for key in ("range_x", "range_y", "beats_all")}
        return {
            "x": self.x._asdict(),
            "y": self.y._asdict(),
            **sides,
            "reference": list(self.reference),
            "best": list(self.best),
            "dominates": self.dominates,
            "dominated": self.dominated,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """The same in plain English, a few sentences."""
        curve, other = self.curve, self.other
        if self.dominates and self.dominated:
            verdict = f"{curve.name} and {other.name} have the same front: neither dominates a point of the other"
        elif curve.wins(other) or other.wins(curve):
            winner, loser = (curve, other) if curve.wins(other) else (other, curve)
            if self.dominates or self.dominated:
                verdict = (
                    f"{winner.name} dominates {loser.name}: of {_of(loser)} {loser.points} points, {loser.dominated} "
                    f"are dominated by {_of(winner)} curve and {loser.equalled} lie on it, while none of "
                    f"{_of(winner)} {winner.points} points is dominated by {_of(loser)}"
                )
            else:
                verdict = (
                    f"Not decided: no point of {winner.name} is dominated by {_of(loser)} curve, but that was "
                    f"measured at {loser.points} points only, against {winner.points}, and may bulge between them; "
                    f"measure {loser.name} at {winner.points}"
                )
        else:
            verdict = (
                f"Neither curve dominates the other: {other.dominated} of {_of(other)} {other.points} points are "
                f"dominated by {_of(curve)} curve, and {curve.dominated} of {_of(curve)} {curve.points} by "
                f"{_of(other)}"
            )
        for winner, loser in ((other, curve), (curve, other)):
            if winner.beats_all and loser.points > 1:
                names = ", ".join(winner.beats_all)
                one = len(winner.beats_all) == 1
                verdict += (
                    f". **{'A single point' if one else 'Single points'} of {winner.name} ({names}) "
                    f"beat{'s' * one} every point of {loser.name}**, in both {self.x.name} and {self.y.name}"
                )
        volumes = f"{curve.hypervolume:.4f} for {curve.name} and {other.hypervolume:.4f} for {other.name}"
        spans = ", ".join(
            f"{axis.name} spans {_span(mine)} ({curve.name}) and {_span(theirs)} ({other.name})"
            for axis, mine, theirs in (
                (self.x, curve.range_x, other.range_x),
                (self.y, curve.range_y, other.range_y),
            )
        )
        corner = f"{self.x.name} {self.reference[0]:.4f}, {self.y.name} {self.reference[1]:.4f}"
        return (
            f"{verdict}. Hypervolume (share of the box above {corner}; straight lines between points) is {volumes}; "
            f"{spans}."
        )


def compare(
    curve: Sequence[Point],
    other: Sequence[Point],
    also: Iterable[Point],
    x: Axis,
    y: Axis,
    names: tuple[str, str] = ("CTSR", "blend"),
) -> Comparison:
    """Compare a curve (CTSR over t) with another (the blend of its teachers over alpha).

    Only measured points count; nothing is interpolated. Hypervolumes are shares of the box between the worst and the
    best value of each axis among all points given, so they depend on what `also` holds; the box is recorded. A box
    without area, where all points agree on an axis, gives both 0.

    Args:
        curve: Points of the curve, in order.
        other: Points of the curve it is compared with, in order.
        also: Further points that only widen the box: teachers, bicubic.
        x: The horizontal metric.
        y: The vertical metric.
        names: Names of the two curves in the result.

    Raises:
        ValueError: If a curve has no points or a value is not finite.
    """
    if not curve or not other:
        raise ValueError(
            f"Expected at least one point on each curve, found {len(curve)} of {names[0]} and {len(other)} of "
            f"{names[1]}. Measure both before comparing them."
        )
    everything = oriented([*curve, *other, *also], x, y)
    direction = signs(x, y)
    worst, best = (
        (direction[0] * chosen(a for a, _ in everything), direction[1] * chosen(b for _, b in everything))
        for chosen in (min, max)
    )
    box = abs(best[0] - worst[0]) * abs(best[1] - worst[1])

    margins = tuple(TOLERANCE * abs(high - low) for high, low in zip(best, worst, strict=True))

    def side(name: str, mine: Sequence[Point], theirs: Sequence[Point]) -> Side:
        own, rivals = oriented(mine, x, y), oriented(theirs, x, y)
        places = [standing(point, rivals, margins) for point in own]
        volume = min(hypervolume(mine, worst, x, y) / box, 1.0) if box > 0.0 else 0.0
        across, up = (_extent(values) for values in ([p.x for p in mine], [p.y for p in mine]))
        beats = tuple(
            p.label for p, at in zip(mine, own, strict=True) if all(at[0] > r[0] and at[1] > r[1] for r in rivals)
        )
        return Side(name, len(mine), places.count("dominated"), places.count("equalled"), across, up, volume, beats)

    return Comparison(x, y, side(names[0], curve, other), side(names[1], other, curve), worst, best)


def _of(side: Side) -> str:
    """The name of a curve as an owner's."""
    return f"{side.name}'" if side.name.endswith("s") else f"{side.name}'s"


def _covers(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether `a` is nowhere worse than `b`."""
    return a[0] >= b[0] and a[1] >= b[1]


def _extent(values: Sequence[float]) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _span(values: tuple[float, float]) -> str:
    return f"{values[0]:.4f} to {values[1]:.4f}"
