"""Progress of a training as lines of a log, where a bar would move on a terminal."""

from __future__ import annotations

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich.console import Console

from ctsr_lightning.progress import PlainProgress


def use_plain_lines(trainer: Trainer) -> Trainer:
    """Replace Lightning's own bar by lines where standard error is a file or a pipe; a notebook keeps its bar.

    Args:
        trainer: The trainer, changed in place.
    """
    if not sys.stderr.isatty() and not _in_notebook():
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [ProgressLines() if type(c) in {RichProgressBar, TQDMProgressBar} else c for c in callbacks]
    return trainer


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel; one that only starts kernels has imported the same packages."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class ProgressLines(ProgressBar):
    """Writes lines such as `training 200/1000, 0.31 s each, 4:08 left` to standard error, in one process.

    After each tenth of the steps, but not sooner than 5 seconds after another line, and after 30 seconds at the latest.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown, self._first, self._done = True, 0, 0
        self._bar = PlainProgress(Console(stderr=True))

    def disable(self) -> None:
        """Write nothing."""
        self._shown = False

    def enable(self) -> None:
        """Write again."""
        self._shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here, which of a resumed training is not the beginning."""
        del pl_module
        self._first, self._done = trainer.global_step, 0
        last = trainer.estimated_stepping_batches
        self._bar = PlainProgress(Console(stderr=True))
        self._bar.add_task(
            f"training from step {self._first}" if self._first else "training",
            total=None if math.isinf(last) else last - self._first,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the steps that were done, and write a line if it is time for one."""
        del pl_module, outputs, batch, batch_idx
        done = trainer.global_step - self._first
        if self._shown and done > self._done:
            self._bar.advance(self._bar.task_ids[0], done - self._done)
        self._done = done
