"""Progress over the tiles of large photos, with an estimate of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctsr_lightning.progress import clock

if TYPE_CHECKING:
    from rich.progress import Progress

FEW = 6
"""Tiles of a photo whose progress is shown, at least."""


@contextmanager
def tile_progress(
    bar: Progress, say: Callable[[str], None], name: str, size: tuple[int, int], tiles: int
) -> Iterator[Callable[[], None] | None]:
    """Within this context tiles are counted; size and number are said first, the time after the first tile.

    Args:
        bar: Where they are counted.
        say: Takes what is said.
        name: The photo.
        size: Height and width of the result.
        tiles: Number of tiles over all passes; of a few, or of a photo in one, 0, nothing is said.

    Returns:
        What to call after each tile.
    """
    if tiles < FEW:
        yield None
        return
    say(f"'{name}': {size[1]}x{size[0]} pixels ({size[0] * size[1] / 1e6:.1f} megapixels), {tiles} tiles.")
    task, start, first = bar.add_task("tiles", total=tiles), time.perf_counter(), True

    def done() -> None:
        nonlocal first
        bar.advance(task)
        if first:
            each = time.perf_counter() - start
            say(f"'{name}': {each:.2g} s for the first tile, about {clock(each * tiles)} in all.")
        first = False

    try:
        yield done
    finally:
        bar.remove_task(task)
