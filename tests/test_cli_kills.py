"""Twenty kills at random moments; run at night, where `CTSR_NIGHTLY=1` asks for it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.config_runs import CONFIGS, QUIET, nano_words

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(
        os.environ.get("CTSR_NIGHTLY", "0") in {"", "0"}, reason="takes minutes; CTSR_NIGHTLY=1 runs it"
    ),
]

KILLS = int(os.environ.get("CTSR_KILLS", "20"))
STEPS = 120


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The nano codec's training, which saves every third step."""
    text = (CONFIGS / "nano" / "codec.yaml").read_text().replace("every_n_train_steps: 100", "every_n_train_steps: 3")
    file = tmp_path / "codec.yaml"
    file.write_text(text.replace("../data", str(CONFIGS / "data")))
    return file


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the training's end."""
    _, said = process.communicate()
    assert process.returncode == 0, said


def start(config: Path, runs: Path, workers: int) -> subprocess.Popen[str]:
    """Type the command, always the same."""
    words = [*QUIET, *nano_words("codec", STEPS), "--data.num_workers", str(workers)]
    words += ["--trainer.val_check_interval", "7"]
    return subprocess.Popen(
        [sys.executable, "-m", "ctsr_lightning.cli", "fit", "--config", str(config), *words],
        env={**os.environ, "CTSR_RUNS": str(runs), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills_at_random_moments_change_nothing(config: Path, tmp_path: Path, workers: int) -> None:
    finish(start(config, tmp_path / "straight", workers))
    moments, steps = random.Random(workers), []
    for _ in range(KILLS):
        process = start(config, tmp_path / "killed", workers)
        assert process.stderr is not None
        for line in process.stderr:
            if "`val`: " in line and "photos" in line:  # the data are found; training is about to begin
                break
        time.sleep(moments.uniform(0.0, 3.0))
        process.kill()
        process.wait()
        process.stderr.close()
        last = tmp_path / "killed" / "codec" / "checkpoints" / "last.ckpt"
        steps.append(torch.load(last, weights_only=True)["global_step"] if last.exists() else 0)
    finish(start(config, tmp_path / "killed", workers))
    assert steps == sorted(steps)
    assert steps[-1] > 0
    files = [tmp_path / name / "codec" / "weights.safetensors" for name in ("straight", "killed")]
    straight, killed = (load_file(file) for file in files)
    assert straight.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in straight.items())
    names = sorted(path.name for path in files[1].with_name("checkpoints").iterdir() if path.name[0] != ".")
    assert names == ["last.ckpt", "previous.ckpt"]
