"""The figures on the page about the method are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.schedule import PAPER_TIMESTEPS
from ctsr_lightning.networks.published_resshift import published_schedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_weights_of_the_bridged_teachers_steps(version: str) -> None:
    first, last = PAPER_TIMESTEPS
    timesteps = torch.arange(first, last + 1)
    alpha_bar = NoiseSchedule().alpha_bar(timesteps, torch.zeros(len(timesteps), 1, 1, 1, dtype=torch.float64))
    schedule = published_schedule(version)
    steps = schedule.paired_step(alpha_bar)
    eta = torch.as_tensor(schedule.sqrt_etas, dtype=torch.float64)[steps] ** 2
    squares = ((1 - eta) / (schedule.kappa * eta.sqrt())) ** 2
    largest, mean, limited = squares.max(), squares.mean(), squares.clamp(max=1.0).mean()
    (row,) = re.findall(rf"^\| {version}, .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1].startswith(f"{int(steps.min())} to {int(steps.max())} of")
    assert cells[3:] == [f"{largest:.1f}", f"{mean:.2f}", f"{limited:.2f}"]
