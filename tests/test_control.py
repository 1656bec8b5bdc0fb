"""The range of the control t, in one place for the command line, models, callbacks and evaluation."""

from __future__ import annotations

import math

import pytest
import torch

from ctsr_lightning.control import check_range
from ctsr_lightning.models.restoration_model import extremes


def test_values_in_range_come_back_as_numbers() -> None:
    assert check_range([0, 0.25, 1]) == [0.0, 0.25, 1.0]
    assert all(isinstance(value, float) for value in check_range([0, 1]))


@pytest.mark.parametrize(
    ("values", "found"), [([], "none"), ([-0.1], "-0.1"), ([0, 1.5], "0, 1.5"), ([math.nan], "nan")]
)
def test_others_are_refused(values: list[float], found: str) -> None:
    with pytest.raises(ValueError, match=rf"control t in \[0, 1\] \(0 realness, 1 fidelity\), found {found}\."):
        check_range(values)


def test_extremes_of_a_map() -> None:
    assert extremes(0.5) == extremes(torch.tensor(0.5)) == extremes(torch.full((2, 3), 0.5)) == (0.5,)
    assert extremes(torch.tensor([[0.25, 1.0], [0.5, 0.0]])) == (0.0, 1.0)
    assert all(math.isnan(value) for value in extremes(torch.tensor([0.1, math.nan])))
    with pytest.raises(ValueError, match="found nan"):
        check_range(extremes(torch.empty(0)))
