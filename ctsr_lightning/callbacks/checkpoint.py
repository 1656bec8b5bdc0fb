"""The checkpoint that a training is resumed from."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt`: regularly, when a training is interrupted or fails, and when it ends.

    Lightning's own callback keeps an older `last.ckpt` if the training does not end on one of its regular steps.

    Args:
        every_n_train_steps: Optimizer steps between two checkpoints.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        super().__init__(save_last=True, save_top_k=0, every_n_train_steps=every_n_train_steps, save_on_exception=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the training, if the last regular step was not it."""
        super().on_train_end(trainer, pl_module)
        if self.last_model_path and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
