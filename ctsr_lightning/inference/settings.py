"""Settings of a restoration as a command line has them; imports no torch, so that `--help` appears at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ctsr_lightning.control import check_range

Precision = Literal["float32", "bfloat16", "float16"]
"""Type that a model computes in."""
TrainingPrecision = Literal["auto", "float32", "bfloat16"]
"""Precision of a chain of trainings: bfloat16 under autocast, with weights in float32, or float32 throughout."""
Color = Literal["none", "adain", "wavelet"]
"""Correction of colours by the enlarged input."""


def parse_controls(text: float | Sequence[float] | str) -> list[float]:
    """Read values of t.

    Args:
        text: A number, a list, or numbers with commas between them; repeated values count once.

    Raises:
        ValueError: If there is none, or one is not a number in [0, 1].
    """
    words: Sequence[float | str]
    if isinstance(text, str):
        words = [word for word in text.replace(",", " ").split() if word]
    else:
        words = [text] if isinstance(text, (int, float)) else list(text)
    try:
        controls = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f"Expected values of t, numbers from 0 (realness) to 1 (fidelity) such as 0,0.5,1; found '{text}'."
        ) from error
    return list(dict.fromkeys(check_range(controls)))
