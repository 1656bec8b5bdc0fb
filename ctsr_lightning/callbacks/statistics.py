"""How fast a training runs and what holds it up."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ctsr_lightning.batch import Batch
from ctsr_lightning.inference.devices import peak_memory


class TrainingStatistics(Callback):
    """Logs a training's speed, gradients and memory, as often as the trainer logs; `ctsr fit` always has it.

    - `training/images_per_second`: training images over all processes, without the time of validations;
    - `training/waiting_for_data`: share of that time in which a step waits for its batch;
    - `training/images_seen`: training images so far, over all processes and resumed runs;
    - `training/gradient_norm`: norm of all gradients, before clipping;
    - `training/skipped_steps`: steps of this run that were skipped, as a loss or gradient was not finite;
    - `training/peak_memory_gb`: peak memory, in 10⁹ bytes, of the GPU's allocations, or of the process on a CPU.
    """

    def __init__(self) -> None:
        self.images_seen = 0
        self._images = 0
        self._busy = self._waiting = 0.0
        self._start = 0.0
        self._end: float | None = None
        self._logged = -1

    def state_dict(self) -> dict[str, Any]:
        """Images seen, for a checkpoint."""
        return {"images_seen": self.images_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Images seen before a checkpoint."""
        self.images_seen = int(state_dict["images_seen"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how long this batch was waited for."""
        del trainer, pl_module, batch, batch_idx
        self._start = time.perf_counter()
        if self._end is not None:
            self._waiting += self._start - self._end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the images of a batch, and log."""
        del outputs, batch_idx
        images = len(batch.lq) * trainer.world_size
        self.images_seen += images
        self._images += images
        self._end = time.perf_counter()
        self._busy += self._end - self._start
        if trainer.global_step != self._logged and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out."""
        del trainer, pl_module
        self._end = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave the time of writing a checkpoint out."""
        del trainer, pl_module, checkpoint
        self._end = None

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        total = self._busy + self._waiting
        values = {
            "training/images_per_second": self._images / max(total, 1e-9),
            "training/waiting_for_data": self._waiting / max(total, 1e-9),
            "training/images_seen": float(self.images_seen),
            "training/gradient_norm": module.finite_steps.gradient_norm,
            "training/skipped_steps": float(module.finite_steps.skipped),
        }
        peak = peak_memory(pl_module.device)
        if peak is not None:
            values["training/peak_memory_gb"] = peak / 1e9
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        self._images, self._busy, self._waiting, self._logged = 0, 0.0, 0.0, trainer.global_step
