"""Two and three processes, each with its share of the images, report what one process reports."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from helpers import quality_runs
from helpers.processes import several_processes
from helpers.quality_runs import PUBLISHED, SHARED, measure, metrics, sets

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every process of both groups reported, as `RANK.json`."""
    folder = tmp_path_factory.mktemp("distributed")
    random = np.random.default_rng(0)
    root = random.normal(size=(36, 36)) * 0.1
    mean, covariance = random.uniform(0.1, 3.0, size=(1, 36)), root @ root.T + 0.01 * np.eye(36)
    np.savez(folder / "niqe.npz", mu_pris_param=mean, cov_pris_param=covariance)
    several_processes(quality_runs.process, folder, folder, count=3)
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_equals_one_process(folder: Path, world: int) -> None:
    collection = metrics(folder / "niqe.npz")
    expected = [measure(collection, images) for images in sets()]
    for rank in range(world):
        found = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))[str(world)]
        for one, together in zip(expected, found, strict=True):
            assert together.keys() == one.keys() == {"psnr", "ssim", "niqe", "edges", "fid"}
            for name, value in one.items():
                tolerance = 1e-6 if name == "edges" else 1e-10  # the distance is a float32 network
                assert together[name] == pytest.approx(value, rel=tolerance, abs=0), name


@pytest.mark.reference
@pytest.mark.parametrize("world", [2, 3])
def test_published_means_on_several_processes(folder: Path, world: int) -> None:
    with (SHARED / "reference" / "osediff_realsr_published_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["image"].removesuffix(".png") in PUBLISHED]
    assert len(rows) == len(PUBLISHED)
    found = json.loads((folder / "0.json").read_text(encoding="utf-8"))[str(world)][-1]
    for name, column in {"psnr": "PSNR", "ssim": "SSIM"}.items():
        assert found[name] == pytest.approx(sum(float(row[column]) for row in rows) / len(rows), abs=1e-5)


def test_one_image_more_would_be_noticed(folder: Path) -> None:
    """A sampler that repeats an image to fill the last process changes every figure by more than the tolerance."""
    restored, gt = quality_runs.pairs(7)
    collection = metrics(folder / "niqe.npz")
    collection.update(restored, gt)
    once = collection.compute()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics: update after compute
        collection.update(restored[:1], gt[:1])
    twice = collection.compute()
    for name, value in once.items():
        assert abs(twice[name] / value - 1) > 1e-4, name
