"""The checkpoint that a training is resumed from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ctsr_lightning.callbacks.image_grid import keeps_files, log_folder


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`: regularly, when a training is interrupted or fails, and when it ends.

    The file is written beside the old one, flushed to the disk and renamed: at any moment one of the two is whole.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
        folder: Folder of the checkpoint; by default `checkpoints` in the run's log folder.

    Raises:
        ValueError: If the number of steps is less than 1.
    """

    def __init__(self, every_n_train_steps: int = 100, folder: Path | None = None) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"Expected every_n_train_steps of at least 1, found {every_n_train_steps}.")
        self.every_n_train_steps = every_n_train_steps
        self.folder = folder
        self.last_model_path = ""
        """The checkpoint, once this run has written it; empty before."""
        self._saved = -1

    def place(self, trainer: Trainer) -> Path:
        """Where the checkpoint is, or will be; to be called by all processes together.

        Args:
            trainer: The trainer.
        """
        return (self.folder or log_folder(trainer) / "checkpoints") / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that training starts from, which needs no checkpoint."""
        del pl_module
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after every so many optimizer steps."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step % self.every_n_train_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        del pl_module
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what is there when a training is interrupted or fails; a process that fails alone cannot save."""
        del pl_module
        together = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt)
        if together and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved or not keeps_files(trainer):
            return
        place = self.place(trainer)
        aside = place.with_name(f".{place.name}.incomplete")
        trainer.save_checkpoint(aside)  # all processes take part and wait for each other
        if trainer.is_global_zero:
            _replace(aside, place)
        trainer.strategy.barrier("LastCheckpoint")
        self._saved, self.last_model_path = trainer.global_step, str(place)


def _replace(aside: Path, place: Path) -> None:
    """Rename a complete file over another; sharded checkpoints, which are folders, in two moves."""
    if aside.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
    aside.replace(place)
