"""The control t: 0 is realness, 1 fidelity."""

from __future__ import annotations

from collections.abc import Iterable


def check_range(values: Iterable[float]) -> list[float]:
    """Values of t, each of which lies in [0, 1].

    Args:
        values: The values.

    Raises:
        ValueError: If there is none, or one leaves [0, 1] or is not a number: nothing was trained beyond the ends.
    """
    controls = [float(value) for value in values]
    if not controls or not all(0.0 <= value <= 1.0 for value in controls):  # in this form NaN is refused too
        found = ", ".join(f"{value:g}" for value in controls) or "none"
        raise ValueError(f"Expected values of the control t in [0, 1] (0 realness, 1 fidelity), found {found}.")
    return controls
