"""Options that commands share."""

from __future__ import annotations

import pytest

from ctsr_lightning.inference.settings import parse_controls


@pytest.mark.parametrize(
    ("text", "controls"),
    [
        ("0,0.5,1", [0.0, 0.5, 1.0]),
        (" 0, 1 ,", [0.0, 1.0]),
        ("0.25", [0.25]),
        (0.25, [0.25]),
        (1, [1.0]),
        ([1.0, 0.0, 1], [1.0, 0.0]),
        ("0.5,0.50", [0.5]),
    ],
)
def test_values_of_t(text: object, controls: list[float]) -> None:
    assert parse_controls(text) == controls


@pytest.mark.parametrize("text", ["-0.1", 1.1, [0.5, 2.0], "nan", "0,5"])
def test_values_outside_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"t in \[0, 1\]|numbers from 0"):
        parse_controls(text)


@pytest.mark.parametrize("text", ["", " , ", []])
def test_no_value(text: object) -> None:
    with pytest.raises(ValueError, match="found none"):
        parse_controls(text)
