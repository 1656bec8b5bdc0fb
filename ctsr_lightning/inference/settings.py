"""Settings of a restoration as a command line has them; imports no torch, so that `--help` appears at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ctsr_lightning.control import check_range

Precision = Literal["float32", "bfloat16", "float16"]
"""Type that a model computes in."""
TrainingPrecision = Literal["auto", "float32", "bfloat16"]
"""Precision of a chain of trainings: bfloat16 under autocast, with weights in float32, or float32 throughout."""
Color = Literal["none", "adain", "wavelet"]
"""Correction of colours by the enlarged input."""
Space = Literal["latent", "image"]
"""Where t acts: on latents before they are decoded, or on the pixels of the two decoded ends."""
AUTO: Final = "auto"
"""The word for a map of t from the input alone, `control_map.automatic_map`."""


@dataclass(frozen=True)
class OutputSize:
    """Size of results: an enlargement, or a width or height in pixels; nothing for the model's own enlargement.

    The other side follows, each is rounded to the nearest whole number of pixels (halves up).

    Args:
        scale: Enlargement, above 0, such as 2 or 3.3.
        width: Width of the result.
        height: Height of the result.

    Raises:
        ValueError: If more than one is given, or one is not above 0.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            found = " and ".join(f"{name} {value}" for name, value in given.items())
            raise ValueError(
                f"Expected one of scale, width and height, found {found}. The other side follows by itself."
            )
        for name, value in given.items():
            if not 0 < value < math.inf:  # also false for NaN
                raise ValueError(f"Expected a {name} above 0, found {value}.")

    def __str__(self) -> str:
        return next((f"{name}:{value}" for name, value in vars(self).items() if value is not None), "own")

    def of(self, height: int, width: int, own: int) -> tuple[int, int]:
        """Height and width of the result of an image.

        Args:
            height: The image's.
            width: The image's.
            own: The model's enlargement.
        """
        if self.width is not None:
            return _rounded(Fraction(height * self.width, width)), self.width
        if self.height is not None:
            return self.height, _rounded(Fraction(width * self.height, height))
        ratio = Fraction(own if self.scale is None else str(self.scale))  # the number as it is written
        return _rounded(ratio * height), _rounded(ratio * width)


OWN_SIZE: Final = OutputSize()
"""The model's own enlargement."""


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


def _rounded(side: Fraction) -> int:
    return max(1, math.floor(side + Fraction(1, 2)))
