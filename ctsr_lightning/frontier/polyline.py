"""Geometry of a curve of straight lines in a plane where larger is better on both axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations, pairwise
from typing import Literal

Coordinates = tuple[float, float]
Piece = tuple[Coordinates, Coordinates]


def dominated_area(line: Sequence[Coordinates]) -> float:
    """Area of the points with positive coordinates that some point of the curve is at least as good as, exact.

    Args:
        line: The corners, in order.
    """
    pieces = list(pairwise(line))
    kinks = {a for a, _ in line} | {c for one, other in combinations(pieces, 2) for c in _crossing(one, other)}
    places = [*sorted((kink for kink in kinks if kink > 0.0), reverse=True), 0.0]
    area, reached = 0.0, 0.0
    # Between two kinks one piece is the highest, and `reached` is the height of what lies to the right.
    for right, left in pairwise(places):
        reached = max([reached, *(b for a, b in line if a == right), *_heights(pieces, right)])
        area += reached * (right - left)
        middle = (right + left) / 2.0
        top = max(_spanning(pieces, middle), key=partial(_height, place=middle), default=None)
        if top is not None and (high := _height(top, left)) > reached:  # a triangle sticks out
            area += (high - reached) ** 2 / (high - _height(top, right)) * (right - left) / 2.0
    return area


def standing(
    point: Coordinates, line: Sequence[Coordinates], margins: tuple[float, ...]
) -> Literal["dominated", "equalled", "free"]:
    """Where a point stands to a curve: dominated by it, on it, or neither.

    Args:
        point: The point.
        line: The corners of the curve, in order.
        margins: How far off, on each axis, a point still counts as lying on it.
    """
    u, v = point
    pieces = list(pairwise(line))
    turned = [((a[1], a[0]), (b[1], b[0])) for a, b in pieces]
    highest = max([b for a, b in line if a >= u] + _heights(pieces, u), default=-math.inf)
    farthest = max([a for a, b in line if b >= v] + _heights(turned, v), default=-math.inf)
    if highest > v + margins[1] or farthest > u + margins[0]:
        return "dominated"
    return "equalled" if highest >= v - margins[1] else "free"


def _heights(pieces: Iterable[Piece], place: float) -> list[float]:
    """Where straight pieces cross a vertical line."""
    return [_height(piece, place) for piece in _spanning(pieces, place)]


def _spanning(pieces: Iterable[Piece], place: float) -> list[Piece]:
    """The pieces that a vertical line cuts between their ends."""
    return [piece for piece in pieces if min(piece[0][0], piece[1][0]) < place < max(piece[0][0], piece[1][0])]


def _height(piece: Piece, place: float) -> float:
    """A piece that is not vertical, at a place."""
    (a, b), (c, d) = piece
    return b + (d - b) * (place - a) / (c - a)


def _crossing(one: Piece, other: Piece) -> list[float]:
    """Where two pieces cross, none if they are parallel or do not."""
    ((a, b), (c, d)), ((e, f), (g, h)) = one, other
    turn = (c - a) * (h - f) - (d - b) * (g - e)
    if turn == 0.0:
        return []
    along = ((e - a) * (h - f) - (f - b) * (g - e)) / turn
    place = a + along * (c - a)
    return [place] if 0.0 < along < 1.0 and min(e, g) <= place <= max(e, g) else []
