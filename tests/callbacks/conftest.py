"""A trainer that is quick and quiet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Build a CPU trainer; keyword arguments override the defaults."""

    def make(**options: Any) -> Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": TensorBoardLogger(tmp_path, name="", version="run"),
            "default_root_dir": tmp_path,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "log_every_n_steps": 1,
        }
        return Trainer(**{**defaults, **options})

    return make


@pytest.fixture
def events(tmp_path: Path) -> Callable[[], EventAccumulator]:
    """Read the trainer's TensorBoard events back."""

    def read() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
        accumulator.Reload()
        return accumulator

    return read
