"""Overlapping tiles, blended by Gaussian weights, so that big images need bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 1 / 8
"""Standard deviation of the weights in tile lengths: exp(-8) at a tile's border, so that no border shows."""

OVERLAP = 1 / 4
"""Share of a tile that its neighbour sees as well."""


class Window(NamedTuple):
    """A rectangle of a grid."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, tensor: Tensor, ratio: Fraction = Fraction(1)) -> Tensor:
        """Cut the window out of the last two dimensions of a tensor.

        Args:
            tensor: Shape (..., H, W).
            ratio: Pixels of the tensor per cell of the window's grid.
        """
        top, left, height, width = (_exact(n * ratio) for n in self)
        return tensor[..., top : top + height, left : left + width]


def windows(height: int, width: int, tile: int, unit: int = 1) -> list[Window]:
    """Cover a grid with evenly spaced windows of one size that overlap by at least `OVERLAP`.

    Args:
        height: Rows of the grid, a multiple of `unit`.
        width: Columns of the grid, a multiple of `unit`.
        tile: Side of a window; smaller sides of the grid shrink it, 0 takes the whole grid.
        unit: Windows start and end at multiples of this.
    """
    rows, columns = list(_spans(height, tile, unit)), list(_spans(width, tile, unit))
    return [Window(top, left, h, w) for top, h in rows for left, w in columns]


def _spans(length: int, tile: int, unit: int) -> Iterator[tuple[int, int]]:
    side = math.ceil(tile / unit) * unit
    if tile == 0 or side >= length:
        yield 0, length
        return
    stride = max(unit, math.floor(side * (1 - OVERLAP) / unit) * unit)
    count = math.ceil((length - side) / stride) + 1
    for i in range(count):
        yield i * (length - side) // (count - 1) // unit * unit, side


def blend(
    cover: list[Window],
    compute: Callable[[Window], Tensor],
    ratio: Fraction = Fraction(1),
    done: Callable[[], None] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compute every window by itself and average where windows overlap.

    A single window is returned as computed, bit for bit.

    Args:
        cover: Windows that cover a grid, of one size, row by row, as `windows` gives them.
        compute: Gives a window's result, shape (B, C, ratio * height, ratio * width).
        ratio: Pixels of the result per cell of the grid.
        done: Called after each window.
        finish: Maps rows that no window changes any more, shape (B, C, rows, ratio * W), to those of the result; to
            fewer bytes, say, as only a window's height of rows is held unfinished.

    Returns:
        The whole, shape (B, C, ratio * H, ratio * W).
    """
    done, finish = done or (lambda: None), finish or (lambda band: band)
    if len(cover) == 1:
        whole = compute(cover[0])
        done()
        return finish(whole)
    height, width = (_exact(max(w[i] + w[i + 2] for w in cover) * ratio) for i in (0, 1))
    rows = {(w.top, w.height): _weights(w.top, w.height, height, ratio) for w in cover}
    columns = {(w.left, w.width): _weights(w.left, w.width, width, ratio) for w in cover}
    # Windows are a grid, so that the sum of their weights is a product too: no plane of it is held.
    down, across = _sums(rows, height, ratio), _sums(columns, width, ratio)
    whole = unfinished = torch.zeros(())
    start = 0  # the row of the whole that `unfinished` starts at

    def close(end: int) -> None:
        nonlocal start, whole
        sums = unfinished[..., : end - start, :]
        band = finish(sums.div_(down[start:end].to(sums)[:, None]).div_(across.to(sums)))
        if whole.dim() == 0:
            whole = band.new_empty(*band.shape[:2], height, width)
        whole[..., start:end, :] = band
        rest = unfinished[..., end - start :, :].clone()
        unfinished.zero_()[..., : rest.shape[-2], :] = rest
        start = end

    for window in cover:
        part = compute(window)
        if unfinished.dim() == 0:
            unfinished = part.new_zeros(*part.shape[:3], width)
        if (top := _exact(window.top * ratio)) > start:
            close(top)
        weights = torch.outer(rows[window.top, window.height], columns[window.left, window.width])
        window._replace(top=0).crop(unfinished, ratio).add_(part * weights.to(part))
        done()
    close(height)
    return whole


def _weights(start: int, length: int, end: int, ratio: Fraction) -> Tensor:
    """Weights along one axis that fall from a tile's centre to its borders, except to those of the whole."""
    pixels = _exact(length * ratio)
    position = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels - 0.5
    first, last = start == 0, _exact((start + length) * ratio) == end
    return torch.exp(-0.5 * (position.clamp(0.0 if first else None, 0.0 if last else math.inf) / SIGMA) ** 2)


def _sums(weights: Mapping[tuple[int, int], Tensor], length: int, ratio: Fraction) -> Tensor:
    """Sums of the weights along one axis, shape (length,)."""
    total = torch.zeros(length, dtype=torch.float64)
    for (start, cells), weight in weights.items():
        total[_exact(start * ratio) : _exact((start + cells) * ratio)] += weight
    return total


def _exact(number: Fraction | int) -> int:
    assert Fraction(number).denominator == 1, f"windows are not aligned: {number}"
    return int(number)
