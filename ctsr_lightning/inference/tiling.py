"""Overlapping tiles, blended by Gaussian weights, so that big images need bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
) -> Tensor:
    """Compute every window by itself and average where windows overlap.

    A single window is returned as computed, bit for bit.

    Args:
        cover: Windows that cover a grid, of one size.
        compute: Gives a window's result, shape (B, C, ratio * height, ratio * width).
        ratio: Pixels of the result per cell of the grid.
        done: Called after each window.

    Returns:
        The whole, shape (B, C, ratio * H, ratio * W).
    """
    done = done or (lambda: None)
    if len(cover) == 1:
        whole = compute(cover[0])
        done()
        return whole
    height, width = (_exact(max(w[i] + w[i + 2] for w in cover) * ratio) for i in (0, 1))
    total, weights = torch.zeros(()), torch.zeros(())
    for window in cover:
        part = compute(window)
        weight = _weight(window, part, height, width, ratio)
        if total.dim() == 0:
            total, weights = part.new_zeros(*part.shape[:2], height, width), part.new_zeros(height, width)
        window.crop(total, ratio).add_(part * weight)
        window.crop(weights, ratio).add_(weight)
        done()
    return total.div_(weights)


def _weight(window: Window, part: Tensor, height: int, width: int, ratio: Fraction) -> Tensor:
    """Weights that fall from a tile's centre to its borders, except to those of the whole; shape (h, w)."""
    axes = []
    for start, length, end in ((window.top, part.shape[-2], height), (window.left, part.shape[-1], width)):
        position = (torch.arange(length, dtype=torch.float64) + 0.5) / length - 0.5
        position = position.clamp(
            0.0 if start == 0 else None, 0.0 if _exact(start * ratio) + length == end else math.inf
        )
        axes.append(torch.exp(-0.5 * (position / SIGMA) ** 2))
    return torch.outer(axes[0], axes[1]).to(part)


def _exact(number: Fraction | int) -> int:
    assert Fraction(number).denominator == 1, f"windows are not aligned: {number}"
    return int(number)
