"""What each process of the distributed test does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ctsr_lightning.callbacks import EMA, Evaluation, ImageGrid, TradeOffCurve, WeightsWriter
from helpers.evaluation_dummies import Blend, Distance, Features, PhotoData

TESTS: dict[str, dict[str, Any]] = {
    "padded": {"count": 7},
    "uneven": {"count": 7, "unpadded": True},
    "idle process": {"count": 1},  # the second process gets the first one's image again
}


def evaluate(options: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """Test a module on photos; the results, and what Lightning logged."""
    evaluation = Evaluation(controls=[0.0, 0.5, 1.0], perceptual=Distance(), fid=Features())
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    run = Trainer(accelerator="cpu", callbacks=[evaluation], **quiet, **trainer)
    run.test(Blend(controllable=True), PhotoData(**options), verbose=False)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    return {"results": evaluation.results, "logged": logged}


def process(rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    """One of several processes; a pair of them trains as well."""
    warnings.filterwarnings("error", message=".*sync_dist.*")
    warnings.filterwarnings("error", message=".*`compute` method.*")
    ddp: dict[str, Any] = {"strategy": "ddp", "devices": world_size}
    found = {name: evaluate(options, **ddp) for name, options in TESTS.items()}
    if world_size == 2:
        train(folder, **ddp)
    return found


def train(folder: Path, **trainer: Any) -> None:
    """Train with every callback that writes a file."""
    callbacks = [
        EMA(),
        Evaluation(perceptual=Distance()),
        ImageGrid(save=True),
        TradeOffCurve(),
        WeightsWriter(),
    ]
    Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="", version="run"),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **trainer,
    ).fit(Blend(controllable=True), PhotoData())
