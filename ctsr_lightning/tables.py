"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, one line per row, without a line break at its end.

    Args:
        header: Heads of the columns.
        rows: Cells, as many per row as there are columns.
    """
    return "\n".join([_line(header), f"|{'---|' * len(header)}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
