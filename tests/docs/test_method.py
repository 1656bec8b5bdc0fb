"""The figures on the page about the method are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from ctsr_lightning.diffusion import NoiseSchedule, ResShiftSchedule
from ctsr_lightning.diffusion.schedule import PAPER_TIMESTEPS
from ctsr_lightning.networks.published_resshift import published_schedule

ROOT = Path(__file__).resolve().parents[2]
PAGE, CONFIGS = ROOT / "docs" / "method.md", ROOT / "configs"


CHAINS = {
    "v1": (published_schedule("v1"), "resshift"),
    "v3": (published_schedule("v3"), "resshift_v3"),
    "nano's": (ResShiftSchedule(num_steps=2, min_noise_level=0.8, kappa=0.2), "nano_resshift"),
}


@pytest.mark.parametrize("version", CHAINS)
def test_weights_of_the_chains_steps(version: str) -> None:
    first, last = PAPER_TIMESTEPS
    timesteps = torch.arange(first, last + 1)
    alpha_bar = NoiseSchedule().alpha_bar(timesteps, torch.zeros(len(timesteps), 1, 1, 1, dtype=torch.float64))
    schedule, teacher = CHAINS[version]
    steps = schedule.paired_step(alpha_bar)
    eta = torch.as_tensor(schedule.sqrt_etas, dtype=torch.float64)[steps] ** 2
    snr = ((1 - eta) / (schedule.kappa * eta.sqrt())) ** 2
    own = (alpha_bar / (1 - alpha_bar)).flatten()
    ratio, page = own / snr, PAGE.read_text(encoding="utf-8")
    assert f"has the mean {own.mean():.2f} and the largest value {own.max():.1f}" in page
    assert f"limited to 5: mean {own.clamp(max=5.0).mean():.2f}" in page
    (row,) = re.findall(rf"^\| {version}, .*$", page, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1].startswith(f"{int(steps.min())} to {int(steps.max())} of")
    weights = [f"{snr.max():.1f}", f"{snr.mean():.2f}", f"{snr.clamp(max=5.0).mean():.2f}"]
    assert cells[2:6] == [*weights, f"{ratio.min():.2f} to {ratio.max():.2f}"]
    clip = yaml.safe_load((CONFIGS / "teacher" / f"{teacher}.yaml").read_text())["init_args"]["clip"]
    assert cells[6] == ("null" if clip is None else f"{clip:g}")
