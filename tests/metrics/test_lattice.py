"""Lattice: its closed forms, what it sees and what it does not, and the sentence about its bar."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from ctsr_lightning.images import quantize, rgb_to_y
from ctsr_lightning.metrics.lattice import FLOOR, Lattice, LatticeCheck, lattice_level, lattices
from ctsr_lightning.spectrum import lattice_power


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(i: int, j: int, factor: int, side: int, phase: float = 0.0) -> Tensor:
    """cos(2 pi (i y + j x) / f), shape (side, side)."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    return torch.cos(2.0 * math.pi * (i * y + j * x) / factor + phase)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_white_noise_has_its_variance_everywhere(factor: int) -> None:
    """In many windows the ratio tends to 1, thus the level to 0 dB."""
    y = 0.02 * noise(4, 1, 768, 768)
    peaks, surroundings = lattice_power(y, factor)
    assert peaks.shape == surroundings.shape == (4, factor**2 - 1)
    assert peaks.mean().item() == pytest.approx(0.02**2, rel=0.03)
    assert surroundings.mean().item() == pytest.approx(0.02**2, rel=0.03)
    assert lattice_level(y, factor).mean().item() == pytest.approx(0.0, abs=0.25)


def test_white_noise_in_one_window() -> None:
    """One window's power is exponential: E 10 log10 P = -10 gamma / ln 10, of a median of ln 2; real bins are chi².

    12 of the 15 frequencies of f = 4 are complex. The other three, at 0 and 1/2, have one degree of freedom:
    E ln chi²_1 = -gamma - ln 2. The sample's median of 96 correlated bins is not quite ln 2.
    """
    found = lattice_level(noise(800, 1, 128, 128), 4).mean().item()
    gamma, decibel = 0.5772156649, 10.0 / math.log(10.0)
    ends = -gamma - math.log(2.0)
    expected = decibel * ((12 * -gamma + 3 * ends) / 15 - math.log(math.log(2.0)))
    assert found == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 3), (2, 1), (2, 2), (0, 2)])
@pytest.mark.parametrize("phase", [0.0, 0.4])
def test_a_wave_has_the_power_of_its_amplitude(i: int, j: int, phase: float) -> None:
    """A² N² / 9, or (A cos phase)² 4 N² / 9 where signs alternate, at its own frequency and its mirror image only."""
    peaks, surroundings = lattice_power(0.03 * wave(i, j, 4, 192, phase)[None, None], 4)
    ends = (2 * i) % 4 == 0 and (2 * j) % 4 == 0
    expected = torch.zeros(16, dtype=torch.float64)
    for a, b in {(i, j), (-i % 4, -j % 4)}:
        expected[4 * a + b] = (0.03 * 128) ** 2 / 9 * (4 * math.cos(phase) ** 2 if ends else 1)
    torch.testing.assert_close(peaks[0], expected[1:], rtol=1e-9, atol=1e-20)
    assert surroundings.max().item() < 1e-20  # the main lobe is left out, and Hann's zeros lie on the other bins


@pytest.mark.parametrize("amplitude", [0.005, 0.02])
def test_a_pattern_on_noise_has_the_predicted_level(amplitude: float) -> None:
    """Waves at all 15 frequencies on noise of variance v: 10 log10 (1 + P / v) for each, P of the amplitude."""
    pattern = sum(wave(i, j, 4, 512) for i in range(4) for j in range(4) if i or j)  # pairs add up
    power = (
        (amplitude * 128) ** 2 / 9 * 4
    )  # as a pair has twice the amplitude, and alternating signs the fourfold power
    expected = 10.0 * math.log10(1.0 + power / 0.05**2)
    found = lattice_level(amplitude * pattern + 0.05 * noise(4, 1, 512, 512), 4)
    assert found.mean().item() == pytest.approx(expected, abs=0.25)


def test_it_does_not_depend_on_where_the_pattern_begins() -> None:
    tile = 0.05 * noise(4, 4)
    y = 0.01 * noise(1, 1, 256, 256, seed=1)
    levels = [
        lattice_level(y + tile.roll(shift, (0, 1)).repeat(64, 64), 4).item() for shift in ((0, 0), (1, 0), (2, 3))
    ]
    assert min(levels) > 15.0
    assert max(levels) - min(levels) < 0.6  # the noise has a phase of its own


def test_periods() -> None:
    """A pattern of period 4 has period 8, too; one of period 8 has not period 4, and 5 is neither."""
    y = 0.01 * noise(1, 1, 320, 320)
    levels = {
        p: [lattice_level(y + 0.05 * noise(p, p).repeat(320 // p, 320 // p), f).item() for f in (4, 8)]
        for p in (4, 5, 8)
    }
    assert levels[4][0] > levels[4][1] > 3.0
    assert levels[8][1] > 15.0
    assert max(levels[5]) < 1.0


def test_a_flat_image_has_none_and_gradients_are_finite() -> None:
    flat = torch.full((2, 1, 128, 128), 0.5, requires_grad=True)
    level = lattice_level(flat, 4)
    torch.testing.assert_close(level, torch.zeros(2), rtol=0, atol=1e-3)
    level.sum().backward()
    assert bool(torch.isfinite(flat.grad).all())
    assert lattice_level(0.1 * FLOOR * wave(0, 1, 4, 128)[None, None], 4).item() < 3.0  # far below an 8-bit level


def test_descending_removes_a_pattern() -> None:
    """The level as a loss: its gradient takes the pattern away and leaves the photograph."""
    photo = 0.05 * noise(1, 1, 128, 128)
    pattern = 0.05 * noise(4, 4, seed=1).repeat(32, 32)
    added = torch.ones(1, dtype=torch.float64, requires_grad=True)
    level = lattice_level(photo + added * pattern, 4)
    (slope,) = torch.autograd.grad(level.sum(), added)
    step = 1e-5
    difference = (
        lattice_level(photo + (1 + step) * pattern, 4) - lattice_level(photo + (1 - step) * pattern, 4)
    ).item() / (2 * step)
    assert slope.item() == pytest.approx(difference, rel=1e-6)
    assert slope.item() > 1.0


def test_the_metric_is_the_level_of_rounded_luma() -> None:
    images = torch.rand(3, 3, 140, 200, generator=torch.Generator().manual_seed(0))
    expected = lattice_level(rgb_to_y(quantize(images).double()), 8)
    torch.testing.assert_close(Lattice(8).values(images), expected, rtol=1e-6, atol=1e-6)
    below = torch.full((1, 3, 128, 128), 0.4) + 0.3 / 255 * wave(0, 1, 4, 128).float()
    assert Lattice(4)(below).item() == 0.0
    metric = Lattice(4)
    metric.update(images[:1])
    metric.update(images[1:])
    assert metric.compute().item() == pytest.approx(Lattice(4).values(images).mean().item(), rel=1e-12)


def test_images_without_a_window_do_not_count() -> None:
    metric, large = Lattice(), torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    metric.update(torch.rand(2, 3, 127, 400))
    assert math.isnan(metric.compute().item())
    metric.update(large)
    assert metric.compute().item() == Lattice().values(large).item()
    with pytest.raises(ValueError, match="at least 128x128 pixels"):
        lattice_level(torch.rand(1, 1, 127, 400), 4)


def test_factors_that_do_not_fit() -> None:
    for factor in (1, 3, 32):
        with pytest.raises(ValueError, match="divides the window of 128"):
            Lattice(factor)
    assert set(lattices(4)) == {"lattice_4", "lattice_8"}
    assert set(lattices(8)) == set(lattices(3)) == {"lattice_8"}


class TestSentence:
    def test_it_holds(self) -> None:
        check = LatticeCheck(4, {"t=0.00": 2.04, "t=1.00": 4.0}, "t", gt=0.93)
        assert check.holds
        assert check.sentence() == (
            "The lattice of period 4 stays below 4 dB for every t (highest: 4.0 dB at t=1.00; ground truth: 0.9 dB)."
        )

    def test_it_is_left(self) -> None:
        check = LatticeCheck(4, {"t=0.00": 10.7, "t=0.50": 3.0, "t=1.00": 11.72}, "t", gt=0.9)
        assert not check.holds
        assert check.sentence() == (
            "**A lattice of period 4 stands out by more than 4 dB** at t=0.00 (10.7 dB) and at t=1.00 (11.7 dB); "
            "ground truth: 0.9 dB."
        )
        record = json.loads(json.dumps(check.as_dict()))
        assert (record["outside"], record["bar"], record["holds"]) == (["t=0.00", "t=1.00"], 4.0, False)

    def test_files_have_no_t(self) -> None:
        inside, outside = (LatticeCheck(8, {"restored": value}).sentence() for value in (1.0, 5.5))
        assert inside == "The lattice of period 8 stays below 4 dB (1.0 dB)."
        assert outside == "**A lattice of period 8 stands out by more than 4 dB** (5.5 dB)."
