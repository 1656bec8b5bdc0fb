"""The checkpoint that a training is resumed from."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ctsr_lightning.callbacks.checkpoint_files import flush_folder, use_checkpoint_files
from ctsr_lightning.callbacks.image_grid import keeps_files, log_folder
from ctsr_lightning.callbacks.stopping import Stopped, StopSignals, requeue
from ctsr_lightning.weights.reading import PREVIOUS


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`, and the one before it: regularly, when a training is stopped, and when it ends.

    Signals (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 of batch systems) stop a training after the step that it is at. A
    checkpoint is always of the end of an optimizer step, and says whether the validation that belongs to it is done:
    the resumed training makes it up. It is written beside the old one, flushed to the disk and renamed: at any moment
    one of the two is whole. Weights that are not finite are not written.

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
        self._signals = StopSignals()
        self._step = 0
        self._loops: dict[str, Any] | None = None
        """Lightning's counters at the end of the last optimizer step; none before the first."""
        self._whole = False
        """Whether weights, averages and counters are those of that step."""
        self._due = self._pending = False
        """Whether a validation belongs to that step, and whether it is yet to be finished."""
        self._stopping = 0
        """The signal that processes have agreed to stop at; 0 for none."""
        self._saved = (-1, False)
        self._saving = False

    def place(self, trainer: Trainer) -> Path:
        """Where the checkpoint is, or will be; to be called by all processes together.

        Args:
            trainer: The trainer.
        """
        return (self.folder or log_folder(trainer) / "checkpoints") / "last.ckpt"

    def found(self, trainer: Trainer) -> Path | None:
        """The checkpoint to resume from: the last or, if there is none, the one before it; None if neither is there.

        Args:
            trainer: The trainer.
        """
        place = self.place(trainer)
        return next((path for path in (place, place.with_name(PREVIOUS)) if path.exists()), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written whole."""
        del pl_module, stage
        use_checkpoint_files(trainer)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, as early as Lightning allows."""
        del pl_module
        self._signals.listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, and note the step that training starts from, which needs no checkpoint."""
        del pl_module
        self._signals.listen(trainer)
        self._step = trainer.global_step
        self._saved = (self._step, False)
        self._loops, self._whole, self._due, self._pending = None, False, False, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop if a signal came; from here on weights and counters may be of different steps."""
        del pl_module, batch, batch_idx
        self._stop(trainer)
        self._whole = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after every so many optimizer steps, or if a signal came: Lightning logs the step, then it stops."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step, self._whole = trainer.global_step, True
        fit = trainer.fit_loop
        self._due = self._pending = fit.epoch_loop._should_check_val_fx(fit._data_fetcher)  # type: ignore[arg-type]
        self._loops = fit.state_dict()
        self._stopping = self._signals.agreed(trainer)
        if self._stopping or self._step % self.every_n_train_steps == 0 or self._step == trainer.max_steps:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a signal came."""
        del pl_module
        self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a signal came."""
        del pl_module
        self._stop(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop within a validation; several processes, which need not have equally many batches, do so at its end."""
        del pl_module
        if trainer.world_size == 1 and self._signals.signum:
            self._stopping = self._signals.signum
            self._stop(trainer)  # `on_exception` saves

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that a validation is done, and stop if a signal came."""
        del pl_module
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._pending = False
        self._stopping = self._signals.agreed(trainer)
        if self._loops is not None and (self._stopping or self._step == trainer.max_steps):
            self._save(trainer)
        self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        del pl_module
        if trainer.global_step != self._saved[0]:
            self._loops, self._pending = None, False
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what is there when a training fails between two steps; within one, the last checkpoint stays.

        A process that fails alone cannot save.
        """
        del pl_module
        fits = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fits and self._whole and trainer.world_size == 1:
            try:
                self._save(trainer)
            except (ValueError, OSError) as error:  # what went wrong first is what is reported
                sys.stderr.write(f"ctsr: no checkpoint is written: {error}\n")
        if isinstance(exception, Stopped) and trainer.is_global_zero:
            requeue(exception.signum)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give this callback's own checkpoints the counters of the last step's end."""
        del pl_module
        if self._saving and self._loops is not None:
            checkpoint["loops"]["fit_loop"] = self._counters(trainer)

    def _counters(self, trainer: Trainer) -> dict[str, Any]:
        """Lightning's counters such that it goes on with what comes next: a validation, a step, or an epoch."""
        state = copy.deepcopy(self._loops)
        assert state is not None
        batches, validated = state["epoch_loop.batch_progress"], state["epoch_loop.val_loop.batch_progress"]
        for counts in (validated["total"], validated["current"]):  # a validation that was begun anew is counted apart
            counts.update(dict.fromkeys(("ready", "started", "completed"), counts["processed"]))
        if self._due:  # the batch is over, and its validation either over or at its very beginning
            for counts in (batches["total"], batches["current"]):
                counts["completed"] = counts["processed"]
            if self._pending:
                begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
                validated.update(total=dict(begun), current=dict(begun), is_last_batch=False)
        elif batches["is_last_batch"]:  # the epoch is over
            for counts in (state["epoch_progress"]["total"], state["epoch_progress"]["current"]):
                counts["processed"] = counts["completed"] = counts["started"]
            validated["is_last_batch"] = True
            if trainer.max_steps == -1:  # Lightning adds the step to its axis only where steps are counted
                state["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        return state

    def _stop(self, trainer: Trainer) -> None:
        """End the training at a signal; one that has made its last step is given the time for its validation."""
        last = 0 <= trainer.max_steps <= trainer.global_step
        if self._stopping and trainer.state.fn == "fit" and (trainer.sanity_checking or not last):
            raise Stopped(self._stopping)

    def _save(self, trainer: Trainer) -> None:
        step, done = trainer.global_step, 0 <= trainer.max_steps <= trainer.global_step
        if self._saved == (step, self._pending) or not keeps_files(trainer):
            return
        finite = getattr(trainer.lightning_module, "finite_steps", None)
        if finite is not None and finite.in_a_row and not done:
            return  # a training that may have diverged: the checkpoint from before stays
        if self._pending and done:  # Lightning does not validate where all steps are made: this would be lost
            return
        place = self.place(trainer)
        aside = place.with_name(f".{place.name}.new")
        self._saving = True
        try:
            trainer.save_checkpoint(aside)  # all processes take part and wait for each other
        finally:
            self._saving = False
        if trainer.is_global_zero:
            _replace(aside, place)
        trainer.strategy.barrier("LastCheckpoint")
        self._saved, self.last_model_path = (step, self._pending), str(place)


def _replace(aside: Path, place: Path) -> None:
    """Put a complete file in another's place and keep that one; of sharded checkpoints, which are folders, one."""
    before = place.with_name(PREVIOUS)
    if aside.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    elif place.exists():
        spare = place.with_name(f".{before.name}.new")
        spare.unlink(missing_ok=True)
        try:
            os.link(place, spare)
        except OSError:  # not every file system has second names
            place.replace(before)
        else:
            spare.replace(before)
    aside.replace(place)
    flush_folder(place.parent)
