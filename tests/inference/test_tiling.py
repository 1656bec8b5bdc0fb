"""Tiles cover, overlap, and leave no seam."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from ctsr_lightning.inference.tiling import OVERLAP, Window, blend, windows


@pytest.mark.parametrize("height", [8, 24, 32, 40, 200])
@pytest.mark.parametrize(("tile", "unit"), [(32, 1), (32, 4), (30, 4), (8, 8)])
def test_windows_cover_the_grid_on_its_units(height: int, tile: int, unit: int) -> None:
    cover = windows(height, 48, tile, unit)
    seen = torch.zeros(height, 48)
    for window in cover:
        window.crop(seen).add_(1)
        assert all(n % unit == 0 for n in window)
        assert window[2:] == cover[0][2:]
        assert window.top + window.height <= height
    assert seen.min() >= 1


def test_neighbours_overlap() -> None:
    lefts = sorted({window.left for window in windows(64, 200, 64)})
    assert all(b - a <= 64 * (1 - OVERLAP) for a, b in pairwise(lefts))


@pytest.mark.parametrize("tile", [0, 64, 100])
def test_what_fits_is_one_window(tile: int) -> None:
    assert windows(64, 48, tile) == [Window(0, 0, 64, 48)]


def test_one_window_is_returned_as_computed() -> None:
    answer = torch.rand(1, 2, 8, 8)
    assert blend(windows(8, 8, 0), lambda _: answer) is answer


@pytest.mark.parametrize("ratio", [Fraction(1), Fraction(4), Fraction(1, 2)])
def test_a_local_function_is_unchanged_by_tiling(ratio: Fraction) -> None:
    whole = torch.rand(2, 3, int(40 * ratio), int(56 * ratio), dtype=torch.float64)
    tiled = blend(windows(40, 56, 16, 2), lambda window: window.crop(whole, ratio), ratio)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def test_no_seam_where_tiles_disagree() -> None:
    """Tiles answer with constants that differ by 1: the blend moves from one to the next without a step."""
    cover = windows(1, 160, 64)
    assert len(cover) == 3
    levels = {window.left: float(i) for i, window in enumerate(cover)}

    def answer(window: Window) -> torch.Tensor:
        return torch.full((1, 1, window.height, window.width), levels[window.left], dtype=torch.float64)

    line = blend(cover, answer)[0, 0, 0]
    steps = line.diff()
    assert steps.min() > -1e-12
    assert steps.max() < 0.2  # hard borders give 1, a linear ramp over the overlap of 16 gives 1/16
    borders = [window.left for window in cover[1:]] + [window.left + window.width for window in cover[:-1]]
    assert max(float(steps[border - 1]) for border in borders) < 0.005


@pytest.mark.parametrize("ratio", [Fraction(1), Fraction(3)])
def test_blending_is_the_weighted_mean_of_all_windows(ratio: Fraction) -> None:
    """Against its definition, by whole planes of sums and weights."""
    cover = windows(45, 60, 16)
    scale = int(ratio)
    parts = {w: torch.rand(1, 2, w.height * scale, w.width * scale, dtype=torch.float64) for w in cover}
    sums, weights = torch.zeros(2, 1, 2, 45 * scale, 60 * scale, dtype=torch.float64)

    def bell(start: int, length: int, end: int) -> torch.Tensor:
        x = (torch.arange(length * scale, dtype=torch.float64) + 0.5) / (length * scale) - 0.5
        if start == 0:
            x = x.clamp(min=0.0)
        if start + length == end:
            x = x.clamp(max=0.0)
        return torch.exp(-32.0 * x.square())

    for w, part in parts.items():
        weight = bell(w.top, w.height, 45)[:, None] * bell(w.left, w.width, 60)
        w.crop(sums, ratio).add_(part * weight)
        w.crop(weights, ratio).add_(weight)
    torch.testing.assert_close(blend(cover, parts.__getitem__, ratio), sums / weights, rtol=0, atol=1e-12)


def test_rows_are_finished_once_in_order_and_few_at_a_time() -> None:
    cover, bands = windows(100, 40, 16), []
    whole = torch.rand(1, 1, 200, 80)

    def levels(band: torch.Tensor) -> torch.Tensor:
        bands.append(band.clone())
        return (band * 255).round().byte()

    result = blend(cover, lambda window: window.crop(whole, Fraction(2)), Fraction(2), finish=levels)
    assert result.dtype == torch.uint8
    assert max(band.shape[-2] for band in bands) <= 32  # of 200 rows, a window's
    assert len(bands) > 5
    torch.testing.assert_close(torch.cat(bands, dim=-2), whole, rtol=0, atol=1e-6)
    assert torch.equal(result, (torch.cat(bands, dim=-2) * 255).round().byte())
