"""The published scores of published outputs, through the classes that training and evaluation use."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctsr_lightning.images import read_image
from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.metrics.distortion import PSNRY, SSIMY
from ctsr_lightning.metrics.quality import NIQE
from ctsr_lightning.weights.search import weight_search_path
from helpers.reference import SHARED

REFERENCE = SHARED / "reference"
NAMES = ("Canon_001_LR4", "Canon_041_LR4", "Canon_033_LR4", "Nikon_015_LR4", "Nikon_023_LR4", "Nikon_031_LR4")
"""Among them a very large NIQE, a small one, and two whose luma has many ties to round."""

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    with (REFERENCE / "osediff_realsr_published_metrics.csv").open(encoding="utf-8") as file:
        return {Path(row["image"]).stem: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def restored() -> Tensor:
    return torch.stack([read_image(REFERENCE / "osediff_realsr" / f"{name}.png") for name in NAMES])


@pytest.fixture(scope="module")
def gt() -> Tensor:
    return torch.stack([read_image(SHARED / "data" / "realsr" / "gt" / f"realsr_{name}.png") for name in NAMES])


@pytest.fixture(scope="module")
def metrics() -> dict[str, ImageMean]:
    with weight_search_path(SHARED / "params" / "niqe"):
        return {"PSNR": PSNRY(), "SSIM": SSIMY(), "NIQE": NIQE()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "tolerance"), [("PSNR", {"abs": 1e-4}), ("SSIM", {"abs": 1e-4}), ("NIQE", {"rel": 5e-3})]
)
def test_every_image_has_its_published_score(
    published: dict[str, dict[str, str]],
    restored: Tensor,
    gt: Tensor,
    metrics: dict[str, ImageMean],
    column: str,
    tolerance: dict[str, float],
) -> None:
    metric = metrics[column].clone()
    expected = [float(published[name][column]) for name in NAMES]
    batched = metric.values(restored, gt).tolist()
    assert batched == pytest.approx(expected, **tolerance)
    for i in range(len(NAMES)):
        pair = restored[i : i + 1], gt[i : i + 1]
        assert metric.values(*pair).item() == pytest.approx(batched[i], abs=1e-10)
        metric.update(*pair)
    assert metric.compute().item() == pytest.approx(sum(batched) / len(NAMES), abs=1e-10)
    assert metric.compute().item() == pytest.approx(sum(expected) / len(NAMES), **tolerance)


def test_niqe_of_the_documented_image(metrics: dict[str, ImageMean]) -> None:
    baboon = read_image(SHARED / "params" / "niqe" / "baboon.png")[None]
    assert metrics["NIQE"].values(baboon).item() == pytest.approx(5.7296, rel=1e-3)
