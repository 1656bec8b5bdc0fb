"""Writers of restored photos after prediction and of weights after training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file
from torch import Tensor

from ctsr_lightning import __version__
from ctsr_lightning.callbacks.checkpoint_files import check_finite_weights
from ctsr_lightning.callbacks.distributed import check_finite
from ctsr_lightning.callbacks.ema import EMA
from ctsr_lightning.callbacks.image_grid import keeps_files, log_folder
from ctsr_lightning.files import written_aside
from ctsr_lightning.images import write_image

WEIGHTS_FILE = "weights.safetensors"


class PredictionWriter(BasePredictionWriter):
    """Writes what `predict_step` restores as PNG files, named by the batch's keys, sub-folders included.

    A prediction is a dictionary from label to images in [0, 1]. One label's images go straight to the folder,
    several labels' to one sub-folder each: `restored/t=0.25/lake/boat.png`.

    Args:
        output: The folder; null for `restored` in the log folder.
    """

    def __init__(self, output: Path | None = None) -> None:
        super().__init__("batch")
        self.output = output
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, which all processes must do together."""
        super().setup(trainer, pl_module, stage)
        default = log_folder(trainer) / "restored"
        self._folder = default if self.output is None else Path(self.output).expanduser()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch.

        Args:
            trainer: The trainer.
            pl_module: The module.
            prediction: Images in [0, 1] by label, each (B, 3, H, W).
            batch_indices: Positions in the data set.
            batch: The `Batch`, for its keys.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the data loader.

        Raises:
            ValueError: If the prediction is not of this form, not finite, or a key leads out of the folder.
        """
        del pl_module, batch_indices, batch_idx, dataloader_idx
        if not isinstance(prediction, dict) or not prediction:
            raise ValueError(
                f"Expected predict_step to return images by label, found {type(prediction).__name__}. Return, for "
                'example, {"restored": images}.'
            )
        for label, images in prediction.items():
            check_finite(images, batch.key, label, trainer)
            folder = self._folder if len(prediction) == 1 else self._folder / label
            for key, image in zip(batch.key, images, strict=True):
                write_image(inside(folder, key), image)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the photos are."""
        del trainer, pl_module
        rank_zero_info(f"Restored photos are in '{self._folder}'.")


class WeightsWriter(Callback):
    """Writes `weights.safetensors` to the log folder when a training has come to its end.

    The file holds what the module's checkpoints hold, with the moving averages in place of the weights where there is
    an `EMA` callback. An interrupted training leaves no such file, so its presence says that the training is complete.
    """

    def __init__(self) -> None:
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the log folder, which all processes must ask for together."""
        del pl_module, stage
        self._folder = log_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the weights of a training that goes on: they are no longer those of its configuration."""
        del pl_module
        path = self._folder / WEIGHTS_FILE
        if trainer.is_global_zero and keeps_files(trainer) and path.is_file():
            path.unlink()
            rank_zero_info(f"'{path}' was of a shorter training; it comes again when this one is complete.")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights, if all steps or epochs were made."""
        if not trainer.is_global_zero or not keeps_files(trainer):
            return
        if not is_complete(trainer):
            rank_zero_info(f"The training stopped early at step {trainer.global_step}: no '{WEIGHTS_FILE}' is written.")
            return
        path = self._folder / WEIGHTS_FILE
        averages = next((callback for callback in _callbacks(trainer) if isinstance(callback, EMA)), None)
        save_weights(path, pl_module, steps=trainer.global_step, averages=averages)
        rank_zero_info(f"Weights are in '{path}'.")


def save_weights(path: Path, pl_module: LightningModule, *, steps: int, averages: EMA | None = None) -> None:
    """Write a module's trained weights as safetensors, in one step: the file is never half written.

    Args:
        path: The file.
        pl_module: The module; its `trimmed_state` says what is written.
        steps: Optimizer steps of the training, for the file's metadata.
        averages: Moving averages to write in place of the weights.

    Raises:
        ValueError: If a weight is not finite.
    """
    module: Any = pl_module
    with nullcontext() if averages is None else averages.swapped(pl_module):
        trained: dict[str, Tensor] = module.trimmed_state()
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trained.items()}
    check_finite_weights(state, steps, path)
    metadata = {
        "format": "pt",
        "module": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
        "ctsr_lightning": __version__,
        "steps": str(steps),
        "ema_decay": "none" if averages is None else str(averages.decay),
    }
    with written_aside(path) as aside:
        save_file(state, aside, metadata=metadata)


def is_complete(trainer: Trainer) -> bool:
    """Whether a fit has made all its steps or epochs, or was ended by early stopping.

    Args:
        trainer: The trainer, after the fit.
    """
    steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs = trainer.max_epochs not in {None, -1} and trainer.current_epoch >= (trainer.max_epochs or 0)
    stopped = any(isinstance(c, EarlyStopping) and c.stopped_epoch > 0 for c in _callbacks(trainer))
    return steps or epochs or stopped


def inside(folder: Path, key: str) -> Path:
    """The PNG file of a key below a folder.

    Args:
        folder: The folder.
        key: The key, with `/` between sub-folders.

    Raises:
        ValueError: If the key leads out of the folder.
    """
    path = folder / f"{key}.png"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"Expected a key that stays inside '{folder}', found '{key}'.")
    return path


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
