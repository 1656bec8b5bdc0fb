"""Two processes of half the batch train and validate like one, through the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctsr_lightning.images.samples import train_samples, val_samples
from ctsr_lightning.weights.shipped import shipped_folder
from helpers.config_runs import CONFIGS, QUIET, Events, ctsr, nano_words

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

CONFIG = CONFIGS / "nano" / "stage1.yaml"
TIMEOUT = 300


def launch(words: list[str]) -> subprocess.Popen[str]:
    """Type a command that starts a second process by itself."""
    command = ["fit", "--config", str(CONFIG), *QUIET, *words, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "ctsr_lightning.cli", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command and return what it said."""
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its second process, too
        said, _ = process.communicate()
        pytest.fail(f"the processes wait for each other:\n{said}")
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 1 over the package's teachers, trained by one process (`one`) and by two (`two`)."""
    folder = tmp_path_factory.mktemp("distributed")
    three = [str(path) for path in (*val_samples(), train_samples()[0])]  # an odd number for two processes
    # In double precision only real differences remain: Adam makes whole steps out of zeros that are rounded.
    words = [*nano_words("stage1"), "--trainer.precision", "64-true", "--data.val", f"[{','.join(three)}]"]
    words += ["--data.train", str(train_samples()[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("CTSR_RUNS", str(shipped_folder()))
        words += ["--trainer.logger.init_args.save_dir", str(folder)]
        name = "--trainer.logger.init_args.name"
        two = launch([*words, "--data.batch_size", "2", name, "two"])
        ctsr("fit", CONFIG, *words, "--data.batch_size", "4", name, "one")
        said = finish(two)
        assert "Starting with 2 processes" in said
        assert "deprecated" not in said
    return folder


@pytest.mark.parametrize(("prefix", "count"), [("train/", 9), ("val/", 16)])
def test_two_processes_log_what_one_logs(runs: Path, prefix: str, count: int) -> None:
    one, two = (Events(runs / number).scalars(prefix) for number in ("one", "two"))
    assert len(one) == count  # eight terms and their sum; four metrics of the student and of three baselines
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5), name


def test_two_processes_learn_the_same_weights(runs: Path) -> None:
    files = [runs / number / "checkpoints" / "last.ckpt" for number in ("one", "two")]
    one, two = (torch.load(file, weights_only=True) for file in files)
    assert one["global_step"] == two["global_step"] == 2
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-9, msg=name)
