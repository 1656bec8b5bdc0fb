"""Several processes give the numbers of one, whatever share of the images each gets."""

import json
import math
from pathlib import Path

import pytest

from helpers.distributed_runs import TESTS, evaluate, process
from helpers.processes import several_processes


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_equal_one(tmp_path, world_size: int) -> None:
    several_processes(process, tmp_path, tmp_path, count=world_size)
    single = {name: evaluate({"count": options["count"]}, devices=1) for name, options in TESTS.items()}
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world_size)]
    for name, expected in single.items():
        for rank in range(world_size):
            results = found[rank][name]["results"]
            assert results.keys() == expected["results"].keys()
            for label in ("t=0.00", "t=0.50", "t=1.00", "bicubic", "T_f"):
                for metric, value in expected["results"][label].items():
                    if math.isnan(value):  # the Fréchet distance of one image
                        assert math.isnan(results[label][metric])
                        assert name == "idle process"
                    else:
                        # Sums in float64; the Fréchet distance takes a root of differences of them.
                        tolerance = 1e-6 if metric.startswith("fid") else 1e-9
                        assert results[label][metric] == pytest.approx(value, abs=tolerance), (name, label, metric)
            logged = found[rank][name]["logged"]
            assert logged.keys() == expected["logged"].keys()
            for label in ("psnr_y/t=0.50", "ssim_y/t=1.00", "bicubic/psnr_y"):
                assert logged[f"test/{label}"] == expected["logged"][f"test/{label}"]  # float32, as Lightning logs

    if world_size == 2:
        check_files(tmp_path)


def check_files(folder: Path) -> None:
    """What a training of two processes leaves."""
    left = sorted(str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*.*"))
    assert [name for name in left if "tfevents" not in name] == [
        "hparams.yaml",
        "images/val-0000002.png",
        "images/val-0000004.png",
        "tradeoff.png",
        "weights.safetensors",
    ]
