"""What docs/use.md promises of maps with the shipped weights: legible lettering at a lower LPIPS than at one t."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ctsr_lightning.degradation import light
from ctsr_lightning.images import read_image
from ctsr_lightning.images.samples import train_samples, val_samples
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.perceptual import perceptual_distance

SIDE = 256


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/control_map.py"
    spec = importlib.util.spec_from_file_location("control_map", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_map_keeps_lettering_legible_at_less_cost_than_one_t(benchmark: ModuleType) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="rapidocr-onnxruntime reads the words")
    crops = []
    for photo in map(read_image, (*train_samples(), *val_samples())):
        top, left = ((length - SIDE) // 2 for length in photo.shape[-2:])
        if min(top, left) >= 0:
            crops.append(photo[:, top : top + SIDE, left : left + SIDE])
    restorer = Restorer.from_pretrained("nano", "cpu")
    table, (inside, outside) = benchmark.measure(restorer, crops, light(), perceptual_distance("squeeze"))
    assert len(crops) >= 8
    assert inside > outside + 0.2
    assert table["t = 1"].wrong < table["t = 0"].wrong - 0.05
    for label in ("auto", "boxes"):
        assert table[label].distance < benchmark.least_distance(table, table[label].wrong), label


def test_the_least_distance_is_taken_along_the_curve(benchmark: ModuleType) -> None:
    row = benchmark.Figures
    table = {f"t = {t:g}": row(0.0, 0.2 + 0.4 * t, 0.0, 0.0, 0.6 - 0.2 * t) for t in benchmark.CONTROLS}
    assert benchmark.least_distance(table, 0.5) == pytest.approx(0.4)
    assert benchmark.least_distance(table, 0.9) == pytest.approx(0.2)
    assert benchmark.least_distance(table, 0.3) == float("inf")
