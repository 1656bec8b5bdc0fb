"""Sizes of results: the model's enlargement, another one, or a width or height."""

from __future__ import annotations

import math

import pytest
import torch

from ctsr_lightning.images import resize_bicubic
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.settings import OWN_SIZE, OutputSize
from ctsr_lightning.models.tradeoff import TradeOff


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (OWN_SIZE, (40, 28)),
        (OutputSize(scale=2), (20, 14)),
        (OutputSize(scale=3.3), (33, 23)),  # 23.1
        (OutputSize(scale=0.35), (4, 2)),  # 3.5 and 2.45: halves go up
        (OutputSize(scale=0.01), (1, 1)),
        (OutputSize(scale=6), (60, 42)),
        (OutputSize(width=28), (40, 28)),
        (OutputSize(width=10), (14, 10)),  # 14.29
        (OutputSize(height=15), (15, 11)),  # 10.5
    ],
)
def test_size_of_an_image_of_10_rows_and_7_columns(size: OutputSize, expected: tuple[int, int]) -> None:
    assert size.of(10, 7, own=4) == expected


def test_a_scale_is_the_number_as_it_is_written() -> None:
    assert OutputSize(scale=1.1).of(15, 45, own=4) == (17, 50)  # 16.5 and 49.5, which float64 has as 49.500000000000004
    assert OutputSize(scale=0.29).of(50, 150, own=4) == (15, 44)  # 14.5 is 14.499999999999998 in float64


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 2, "width": 100}, "found scale 2 and width 100"),
        ({"width": 100, "height": 100}, "found width 100 and height 100"),
        ({"scale": 0}, "scale above 0, found 0"),
        ({"scale": math.nan}, "scale above 0, found nan"),
        ({"height": -3}, "height above 0, found -3"),
    ],
)
def test_sizes_that_are_none(options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OutputSize(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["latent", "image"])
def test_a_result_is_the_models_resampled_once(tradeoff: TradeOff, space: str) -> None:
    restorer = Restorer(tradeoff, "cpu", space=space)  # type: ignore[arg-type]
    lq = torch.rand(3, 9, 6, generator=torch.Generator().manual_seed(0))
    own = restorer(lq, 0.5)
    assert own.shape == (3, 36, 24)
    assert torch.equal(restorer(lq, 0.5, size=OutputSize(width=24)), own)
    small = restorer(lq, 0.5, size=OutputSize(scale=1.5))
    assert torch.equal(small, resize_bicubic(own[None], (14, 9))[0])  # 13.5 rows
