"""G-STD and L-STD against NumPy in float64, and their exact zeros."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from ctsr_lightning.metrics.stability import Stability

BLACK, WHITE = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)


def measured(*images: list[Tensor]) -> Stability:
    """The stability of images, each given by its runs, without metrics."""
    stability = Stability()
    for runs in images:
        for image in runs:
            stability.add(image, {})
        stability.finish()
    return stability


def local_deviation(*images: list[Tensor]) -> float:
    deviation: float = measured(*images).as_dict()["l_std"]
    return deviation


def runs_of(seed: int, number: int = 5, size: tuple[int, int] = (9, 7)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(3, *size, generator=generator)
    return [base + 0.05 * torch.randn(base.shape, generator=generator) for _ in range(number)]


def levels(images: list[Tensor]) -> np.ndarray:
    """8-bit levels over 255, in float64."""
    return np.stack([np.round(np.clip(i.numpy(), 0, 1) * np.float32(255)) for i in images]).astype(np.float64) / 255


def test_global_deviation_equals_numpy() -> None:
    values = np.random.default_rng(0).normal(25.0, 0.3, size=(4, 10))  # images, runs
    stability = Stability()
    for image in values:
        for value in image:
            stability.add(BLACK, {"psnr_y": value, "lpips": value / 100})
        assert stability.finish()["psnr_y"] == pytest.approx(image.std(), rel=1e-12)
    result = stability.as_dict()["g_std"]
    assert result["psnr_y"] == pytest.approx(values.std(axis=1).mean(), rel=1e-12)
    assert result["lpips"] == pytest.approx(values.std(axis=1).mean() / 100, rel=1e-12)


def test_global_deviation_in_closed_form() -> None:
    stability = Stability()
    for pair in ((1.0, 3.0), (10.0, 10.0)):  # deviations 1 and 0
        for value in pair:
            stability.add(BLACK, {"m": value})
        stability.finish()
    assert stability.as_dict()["g_std"] == {"m": 0.5}


def test_local_deviation_equals_numpy() -> None:
    images = [runs_of(seed) for seed in range(3)]
    for runs in images:
        assert local_deviation(runs) == pytest.approx(levels(runs).std(axis=0).mean(), rel=1e-12)
    expected = np.mean([levels(runs).std(axis=0) for runs in images])
    assert local_deviation(*images) == pytest.approx(expected, rel=1e-12)


def test_local_deviation_in_closed_form() -> None:
    assert local_deviation([BLACK, WHITE]) == 0.5
    one_channel = BLACK.clone()
    one_channel[0] = 1.0
    assert local_deviation([BLACK, one_channel]) == pytest.approx(0.5 / 3, abs=1e-15)
    assert local_deviation([BLACK, BLACK, WHITE, WHITE]) == 0.5  # population, not sample


@pytest.mark.parametrize("number", [2, 3, 7, 10])
def test_equal_runs_give_exactly_zero(number: int) -> None:
    image = runs_of(0)[0]
    stability = Stability()
    for _ in range(3):
        for _ in range(number):
            stability.add(image, {"psnr_y": 25.1, "lpips": 0.1})  # sums of 0.1 are not exact in floating point
        stability.finish()
    assert stability.as_dict() == {
        "g_std": {"psnr_y": 0.0, "lpips": 0.0},
        "l_std": 0.0,
        "images": 3,
        "runs": number,
    }


def test_differences_below_eight_bits_do_not_count() -> None:
    image = torch.full((3, 4, 4), 100 / 255)
    assert local_deviation([image, image + 0.4 / 255]) == 0.0
    assert local_deviation([image, image + 1 / 255]) == pytest.approx(0.5 / 255, rel=1e-12)


def test_order_of_runs_does_not_matter() -> None:
    runs = runs_of(3, number=10)
    values = np.random.default_rng(1).normal(25.0, 0.3, size=10)
    results = []
    for order in (range(10), reversed(range(10)), np.random.default_rng(2).permutation(10)):
        stability = Stability()
        for index in order:
            stability.add(runs[index], {"psnr_y": values[index]})
        results.append(stability.finish())
    assert results[0] == results[1] == results[2]


def test_images_of_different_sizes_weigh_the_same() -> None:
    small, large = runs_of(0, size=(4, 4)), runs_of(1, size=(40, 30))
    batches = [[image[None] for image in runs] for runs in (small, large)]  # a batch of one is an image too
    assert local_deviation(*batches) == pytest.approx((local_deviation(small) + local_deviation(large)) / 2, rel=1e-12)


def test_together_as_json() -> None:
    stability = Stability()
    for index, image in enumerate(runs_of(0, number=3)):
        stability.add(image, {"psnr_y": 25.0 + index})
    own = stability.finish()
    record = json.loads(json.dumps(stability.as_dict()))
    assert record["g_std"] == {"psnr_y": own["psnr_y"]} == {"psnr_y": pytest.approx(np.std([0, 1, 2]))}
    assert record["l_std"] == own["l_std"] > 0
    assert (record["images"], record["runs"]) == (1, 3)


def test_numbers_of_runs() -> None:
    for runs in ([], [BLACK]):
        with pytest.raises(ValueError, match=f"at least 2 runs .* found {len(runs)}"):
            measured(runs)
    with pytest.raises(ValueError, match=r"Expected 3 runs, .* found 2"):
        measured([BLACK] * 3, [BLACK] * 2)


def test_unfinished_results() -> None:
    stability = Stability()
    with pytest.raises(ValueError, match="found 0 and 0 runs"):
        stability.as_dict()
    stability = measured([BLACK, WHITE])
    stability.add(BLACK, {})
    with pytest.raises(ValueError, match="found 1 and 1 runs of an unfinished one"):
        stability.as_dict()
    stability.add(WHITE, {})
    stability.finish()
    assert stability.as_dict()["l_std"] == 0.5


def test_runs_that_do_not_fit_together() -> None:
    stability = Stability()
    stability.add(BLACK, {"a": 1.0})
    with pytest.raises(ValueError, match=r"\['a'\], found \['a', 'b'\]"):
        stability.add(BLACK, {"a": 1.0, "b": 1.0})
    stability.add(BLACK, {"a": 1.0})
    stability.finish()
    with pytest.raises(ValueError, match=r"\['a'\], found \['b'\]"):
        stability.add(BLACK, {"b": 1.0})
    stability.add(BLACK, {"a": 1.0})
    with pytest.raises(ValueError, match="a = nan"):
        stability.add(BLACK, {"a": float("nan")})
    with pytest.raises(ValueError, match="same in every run"):
        stability.add(torch.zeros(3, 4, 5), {"a": 1.0})
    with pytest.raises(ValueError, match="NaN"):
        stability.add(torch.full((3, 4, 4), float("nan")), {"a": 1.0})
    for shape in ((1, 4, 4), (2, 3, 4, 4), (4, 4)):
        with pytest.raises(ValueError, match="one RGB image"):
            Stability().add(torch.zeros(shape), {"a": 1.0})
