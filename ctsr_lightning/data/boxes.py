"""Crops."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """A crop in pixels."""

    top: int
    """First row."""
    left: int
    """First column."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""

    def times(self, factor: int) -> Box:
        """The same crop in an image that is larger by a whole factor."""
        return Box(*(factor * value for value in self))

    @property
    def rows(self) -> slice:
        """The crop along the height."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The crop along the width."""
        return slice(self.left, self.left + self.width)
