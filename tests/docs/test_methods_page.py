"""What the page of methods says of its figures holds in its tables."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def figures(name: str, method: str) -> list[tuple[float, float]]:
    """PSNR-Y and LPIPS of a method on a set, by one step, two and so on."""
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    head = lines[0]
    found = [line for line in lines if line[0].endswith((" step", " steps")) and line[0].startswith(f"{method} ")]
    numbers = [int(line[0].split()[-2]) for line in found]
    assert numbers == list(range(1, len(found) + 1))
    psnr, lpips = head.index("PSNR-Y ↑"), head.index("LPIPS-Squeeze ↓")
    return [(float(line[psnr]), float(line[lpips])) for line in found]


@pytest.mark.parametrize("name", ["kodak", "realsr"])
def test_more_steps_are_less_faithful(name: str) -> None:
    for method, count in (("AddSR", 4), ("CCSR", 2)):
        psnr = [row[0] for row in figures(name, method)]
        assert len(psnr) == count
        assert all(a > b for a, b in pairwise(psnr)), f"{method} on {name}: {psnr}"


def test_more_steps_are_more_realistic_on_photographs_of_the_training_degradations() -> None:
    for method in ("AddSR", "CCSR"):
        lpips = [row[1] for row in figures("kodak", method)]
        assert all(a > b for a, b in pairwise(lpips)), f"{method}: {lpips}"
