"""Grid energy: its formula, what it sees and what it does not, and the sentence about its bar."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.images import read_image
from ctsr_lightning.images.samples import val_samples
from ctsr_lightning.metrics.grid import FLOOR, GridCheck, GridEnergy, grid_energy


def from_levels(levels: Tensor) -> Tensor:
    """An RGB image, shape (1, 3, H, W), from grey levels of 0 to 255."""
    assert levels.min() >= 0
    assert levels.max() <= 255
    return (levels.float() / 255.0).expand(1, 3, -1, -1)


def stairs(height: int, width: int, factor: int) -> Tensor:
    """A surface that rises by 1 at every border of patches, in both directions."""
    rows, columns = torch.meshgrid(torch.arange(height) // factor, torch.arange(width) // factor, indexing="ij")
    return rows + columns


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A crop of the cat, levels from 0 to 127, so that something can be added."""
    pytest.importorskip("skimage")
    return (read_image(val_samples()[0])[1, 60:140, 100:190] * 127.0).round().long()


@pytest.mark.parametrize(("factor", "cut"), [(2, 0), (3, 1), (4, 0), (4, 2), (8, 0), (8, 13)])
def test_it_follows_its_formula(factor: int, cut: int) -> None:
    """Every pair of neighbours by hand, on sides that are no multiples of the factor."""
    image = torch.randint(0, 256, (3, 19, 30), generator=torch.Generator().manual_seed(0))
    pixels = image.numpy() / 255.0
    means = {True: 0.0, False: 0.0}
    for lines in (pixels.transpose(2, 0, 1), pixels.transpose(1, 0, 2)):
        for border in (True, False):
            steps = [
                np.abs(lines[i] - lines[i - 1]) for i in range(1, len(lines)) if ((i + cut) % factor == 0) is border
            ]
            means[border] += float(np.mean(steps))
    expected = (means[True] + FLOOR) / (means[False] + FLOOR)
    found = grid_energy((image / 255.0)[None], factor, cut).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("factor", [4, 8])
def test_a_checkerboard_of_patches(factor: int) -> None:
    """Steps of s at all borders and none elsewhere: (2 s + c) / c, and flat ground truth has 1."""
    board = from_levels(100 + 51 * (stairs(27, 33, factor) % 2))
    expected = (2 * 51 / 255 + FLOOR) / FLOOR
    assert grid_energy(board, factor).item() == pytest.approx(expected, rel=1e-12)
    flat = torch.full_like(board, 0.4)
    assert GridEnergy(factor)(board, flat).item() == pytest.approx(expected, rel=1e-12)
    assert GridEnergy(factor)(board, board).item() == 1.0
    assert GridEnergy(factor)(flat, flat).item() == 1.0


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (13, 30), (21, 47), (9, 64)])
@pytest.mark.parametrize("step", [0, 3])
def test_a_gradient_has_one_and_a_grid_on_it_the_same_in_any_size(size: tuple[int, int], step: int) -> None:
    """Slopes of 2 and 1 levels per pixel: ((2 + s) + (1 + s)) / (2 + 1), which 13 x 30 must not change."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    levels = 2 * rows + columns + step * stairs(*size, 4)
    expected = ((3 + 2 * step) / 255 + FLOOR) / (3 / 255 + FLOOR)
    assert grid_energy(from_levels(levels), 4).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("amplitude", [1, 2])
def test_a_grid_in_a_photo_counts_with_its_amplitude(photo: Tensor, amplitude: int) -> None:
    """Where a photo rises everywhere, as with its pixels sorted, a grid of amplitude a adds 2 a to the numerator."""
    rising = photo.sort(dim=0).values.sort(dim=1).values
    clean, painted = (from_levels(rising + a * stairs(*photo.shape, 4)) for a in (0, amplitude))
    others = sum(
        np.mean(np.delete(np.abs(np.diff(rising.numpy(), axis=axis)) / 255.0, np.s_[3::4], axis=axis))
        for axis in (0, 1)
    )
    added = grid_energy(painted, 4) - grid_energy(clean, 4)
    assert added.item() == pytest.approx(2 * amplitude / 255 / (others + FLOOR), rel=1e-9)


def test_only_a_grid_in_its_place_is_seen(photo: Tensor) -> None:
    clean, painted = from_levels(photo), from_levels(photo + 8 * (stairs(*photo.shape, 4) % 2))
    metric = GridEnergy(4)
    assert metric(clean, clean).item() == 1.0
    whole = metric(painted, clean).item()
    assert whole > 1.5
    for dim in (-1, -2):
        shifted = [x.narrow(dim, 1, x.shape[dim] - 1) for x in (painted, clean)]
        assert metric(*shifted).item() < 0.8 * whole  # one of two directions is hidden
    cut = [x[..., 1:-1, 1:-1] for x in (painted, clean)]
    assert metric(*cut).item() < 0.9
    assert GridEnergy(4, cut=1)(*cut).item() > 1.5
    assert GridEnergy(8)(painted, clean).item() < metric(painted, clean).item()


def test_smooth_enlargement_leaves_a_trace(photo: Tensor) -> None:
    gt = from_levels(photo)
    lq = F.interpolate(gt, scale_factor=0.25, mode="bicubic", antialias=True)
    enlarged = F.interpolate(lq, gt.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    assert GridEnergy(4)(enlarged, gt).item() > 1.1


def test_batches_and_parts_give_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    restored, gt = (torch.rand(5, 3, 18, 23, generator=generator) for _ in range(2))
    single = torch.cat([GridEnergy().values(restored[i : i + 1], gt[i : i + 1]) for i in range(5)])
    assert single.dtype == torch.float64
    assert torch.equal(GridEnergy().values(restored, gt), single)
    whole, one, other = GridEnergy(), GridEnergy(), GridEnergy()
    whole.update(restored, gt)
    one.update(restored[:2], gt[:2])
    other.update(restored[2:], gt[2:])
    one.merge_state(other)
    torch.testing.assert_close(one.compute(), whole.compute(), rtol=1e-14, atol=0)
    torch.testing.assert_close(whole.compute(), single.mean(), rtol=1e-14, atol=0)


def test_images_are_rounded_to_8_bits_first() -> None:
    flat = torch.full((1, 3, 16, 16), 0.4)
    below_a_level = flat + 0.3 / 255 * (stairs(16, 16, 4) % 2)
    assert grid_energy(below_a_level, 4).item() == 1.0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 8 pixels a side"):
        GridEnergy(8)(torch.rand(1, 3, 8, 30), torch.rand(1, 3, 8, 30))
    for wrong in ({"factor": 1}, {"cut": -1}):
        with pytest.raises(ValueError, match="at least 2 pixels"):
            GridEnergy(**wrong)


class TestSentence:
    def test_it_holds(self) -> None:
        check = GridCheck(4, {"t=0.00": 1.03, "t=0.50": 0.97, "t=1.00": 0.99}, "t")
        assert check.holds
        assert check.sentence() == (
            "Grid energy stays within 3 % of the ground truth's for every t (patches of 4x4 pixels; farthest: "
            "+3.00 % at t=0.00)."
        )

    def test_it_is_left(self) -> None:
        check = GridCheck(8, {"t=0.00": 1.0412, "t=0.50": 1.0, "t=1.00": 0.9}, "t", bicubic=1.2)
        assert not check.holds
        assert check.sentence() == (
            "**Grid energy leaves the 3 % around the ground truth's** at t=0.00 (+4.12 %) and at t=1.00 (-10.00 %). "
            "Patches of 8x8 pixels; bicubic enlargement: +20.00 %."
        )
        record = json.loads(json.dumps(check.as_dict()))
        assert record["outside"] == ["t=0.00", "t=1.00"]
        assert record["values"]["t=0.00"] == 1.0412
        assert (record["bar"], record["holds"], record["factor"]) == (0.03, False, 8)

    def test_files_have_no_t(self) -> None:
        inside, outside = (GridCheck(4, {"restored": value}).sentence() for value in (1.01, 1.5))
        assert inside == "Grid energy stays within 3 % of the ground truth's (patches of 4x4 pixels; +1.00 %)."
        assert outside == (
            "**Grid energy leaves the 3 % around the ground truth's** (+50.00 %). Patches of 4x4 pixels."
        )
