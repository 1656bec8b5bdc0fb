"""Markdown tables."""

from ctsr_lightning.tables import markdown_table


def test_a_table_has_a_line_per_row_and_a_cell_per_column() -> None:
    assert markdown_table(["", "a"], [["x", "1"], ("y", "2")]) == "|  | a |\n|---|---|\n| x | 1 |\n| y | 2 |"
    assert markdown_table(["a"], []) == "| a |\n|---|"
