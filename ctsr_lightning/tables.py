"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, one line per row, without a line break at its end.

    Args:
        header: Heads of the columns.
        rows: Cells, as many per row as there are columns.
    """
    return "\n".join([markdown_row(header), f"|{'---|' * len(header)}", *map(markdown_row, rows)])


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table.

    Args:
        cells: Its cells.
    """
    return f"| {' | '.join(cells)} |"
