"""Points and axes of the perception-distortion plane (Blau and Michaeli 2018, "The Perception-Distortion Tradeoff")."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Point(NamedTuple):
    """One method, or one setting of a method, on the perception-distortion plane.

    Args:
        label: What it is called, for example `t=0.50`.
        x: Value of the horizontal metric.
        y: Value of the vertical metric.
        extra: Further values by name, such as all other metrics and the seconds per image.
    """

    label: str
    x: float
    y: float
    extra: Mapping[str, float] = MappingProxyType({})


class Axis(NamedTuple):
    """A metric that an axis shows."""

    name: str
    higher_is_better: bool


def signs(x: Axis, y: Axis) -> tuple[float, float]:
    """1 for each axis where larger is better, else -1."""
    return 1.0 if x.higher_is_better else -1.0, 1.0 if y.higher_is_better else -1.0


def oriented(points: Iterable[Point], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Coordinates with larger as the better on both axes."""
    across, up = signs(x, y)
    return [(across * finite(p.label, x, p.x), up * finite(p.label, y, p.y)) for p in points]


def finite(label: str, metric: Axis, value: float) -> float:
    """A value, refused if it is not finite."""
    if not math.isfinite(value):
        raise ValueError(
            f"Expected finite numbers, found {metric.name} = {value} at {label}. Leave this setting out or measure it "
            "again."
        )
    return float(value)
