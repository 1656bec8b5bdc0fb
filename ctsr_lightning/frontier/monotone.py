"""Whether a metric moves in one direction along t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctsr_lightning.frontier.plane import Axis, finite


@dataclass(frozen=True)
class Monotone:
    """Whether a metric moves in one direction along a series of settings.

    Args:
        metric: The metric.
        improving: The direction wanted: true if it must never get worse, false if it must never get better.
        first: Label and value of the first setting.
        last: Label and value of the last setting.
        worst: Largest step back between any two settings in order, in units of the metric; 0 if there is none.
        between: Labels of these two settings, None if there is no step back.
        flat: Whether all values are equal.
    """

    metric: str
    improving: bool
    first: tuple[str, float]
    last: tuple[str, float]
    worst: float
    between: tuple[str, str] | None
    flat: bool

    @property
    def holds(self) -> bool:
        """Whether no setting steps back; equal neighbours are allowed."""
        return self.between is None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        record = asdict(self) | {"first": list(self.first), "last": list(self.last), "holds": self.holds}
        record["sentence"] = self.sentence()
        return record | {"between": None if self.between is None else list(self.between)}

    def sentence(self) -> str:
        """The same in plain English."""
        (start, low), (end, high) = self.first, self.last
        if self.flat:
            return f"{self.metric} is flat from {start} to {end} (always {low:.4f})."
        span = f"from {start} to {end} ({low:.4f} to {high:.4f})"
        if self.between is None:
            return f"{self.metric} {'improves' if self.improving else 'worsens'} monotonically {span}."
        back = f"{'falls back' if self.improving else 'improves'} by {self.worst:.4g}"
        return f"{self.metric} is not monotone {span}: it {back} between {self.between[0]} and {self.between[1]}."


def monotone(labels: Sequence[str], values: Sequence[float], metric: Axis, improving: bool) -> Monotone:
    """Check that a metric moves in one direction along a series of settings, such as t = 0 ... 1.

    Along t, PSNR is expected to improve and a perceptual distance to worsen. The step back reported is the largest
    between any two settings in order, so that several small ones in a row count together.

    Args:
        labels: Names of the settings, in order.
        values: The metric's value at each.
        metric: The metric and its direction.
        improving: True if the metric must never get worse along the series, false if it must never get better.

    Raises:
        ValueError: If there is no value, if labels and values differ in number, or if a value is not finite.
    """
    if not values or len(labels) != len(values):
        raise ValueError(
            f"Expected at least one value and a label for each, found {len(values)} values and {len(labels)} labels."
        )
    sign = 1.0 if metric.higher_is_better == improving else -1.0
    numbers = [finite(label, metric, value) for label, value in zip(labels, values, strict=True)]
    wanted = [sign * number for number in numbers]  # must rise
    peak, worst, between = 0, 0.0, None
    for index, value in enumerate(wanted):
        if value >= wanted[peak]:
            peak = index
        elif wanted[peak] - value > worst:
            worst, between = wanted[peak] - value, (labels[peak], labels[index])
    first, last = ((labels[i], numbers[i]) for i in (0, -1))
    return Monotone(metric.name, improving, first, last, worst, between, min(numbers) == max(numbers))
