"""Picture grids during validation: low-quality images, teachers, restorations, ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.callbacks.distributed import checked_batch, evaluation_rng
from ctsr_lightning.callbacks.evaluation import RESTORED
from ctsr_lightning.control import check_range
from ctsr_lightning.evaluation.labels import control_label
from ctsr_lightning.figures.plots import labelled_row, stack_rows
from ctsr_lightning.images import enlarge, write_image


class ImageGrid(Callback):
    """Writes the first images of a validation or test pass to the logger: lq | T_f | T_r | t=0 … 1 | gt.

    One row per image, each picture under its name. Only the first process draws, from the images that it sees. A
    module's references are computed once per image where they stay the same (`fixed_references`).

    Args:
        num_images: Number of images.
        crop: Longest side of a picture in pixels; larger images are cropped in the middle, to show details.
        controls: Values of t to show of controllable modules.
        upsampling: Interpolation of the low-quality image to the size of the others.
        save: Whether to write the grid as PNG to `images/` below the log folder, too.

    Raises:
        ValueError: If `num_images` or `crop` is not positive, or a control leaves [0, 1].
    """

    def __init__(
        self,
        num_images: int = 3,
        crop: int = 256,
        controls: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        upsampling: Literal["bicubic", "nearest"] = "bicubic",
        save: bool = False,
    ) -> None:
        if num_images < 1 or crop < 1:
            raise ValueError(f"Expected positive `num_images` and `crop`, found {num_images} and {crop}.")
        self.num_images, self.crop, self.save = num_images, crop, save
        self.controls = check_range(sorted(set(controls)))
        self.upsampling = upsampling
        self._rows: list[Tensor] = []
        self._references: dict[tuple[str, str], dict[str, Tensor]] = {}
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the log folder, which all processes must ask for together, and forget the references."""
        del pl_module
        self._folder = log_folder(trainer) / "images"
        self._references.clear()
        if stage in {"fit", "validate", "test"} and not self.save and not can_publish(trainer):
            rank_zero_info(
                "ImageGrid: no logger takes pictures, so none are drawn. Add a TensorBoardLogger or set `save`."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an empty grid."""
        del trainer, pl_module
        self._rows = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an empty grid."""
        del trainer, pl_module
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take rows from a batch of validation images."""
        del outputs, batch_idx
        self._collect(trainer, pl_module, batch, "val", dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take rows from a batch of test images."""
        del outputs, batch_idx
        self._collect(trainer, pl_module, batch, "test", dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the grid."""
        del pl_module
        self._write(trainer, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the grid."""
        del pl_module
        self._write(trainer, "test")

    def _collect(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        wanted = self.num_images - len(self._rows)
        idle = trainer.sanity_checking or not trainer.is_global_zero or not (self.save or can_publish(trainer))
        if wanted <= 0 or idle:
            return
        full, gt = checked_batch(batch, dataloader_idx)
        shown = Batch(full.lq[:wanted], gt[:wanted], full.key[:wanted])
        module: Any = pl_module
        columns = {"lq": enlarge(shown.lq, gt, self.upsampling)}
        with evaluation_rng(trainer, shown.key):
            missing = any((stage, key) not in self._references for key in shown.key)
            missing |= not getattr(module, "fixed_references", True)
            references = module.references(shown) if missing else {}
            if module.controllable:
                labels = [control_label(control) for control in self.controls]
                restored = dict(zip(labels, module.sweep(shown.lq, self.controls, shown.key), strict=True))
            else:
                restored = {RESTORED: module.restore(shown.lq, shown.key)}
        for i, key in enumerate(shown.key):
            if missing:
                self._references[stage, key] = {name: self._crop(image[i]) for name, image in references.items()}
            row = {name: self._crop(image[i]) for name, image in columns.items()}
            row |= self._references[stage, key]
            row |= {name: self._crop(image[i]) for name, image in restored.items()}
            self._rows.append(labelled_row({**row, "gt": self._crop(gt[i])}))

    def _crop(self, image: Tensor) -> Tensor:
        """The middle of an image, on the CPU."""
        h, w = (min(side, self.crop) for side in image.shape[-2:])
        top, left = (image.shape[-2] - h) // 2, (image.shape[-1] - w) // 2
        return image[:, top : top + h, left : left + w].detach().float().cpu()

    def _write(self, trainer: Trainer, stage: str) -> None:
        if not self._rows:
            return
        grid = stack_rows(self._rows)
        publish(trainer, f"{stage}/images", grid)
        if self.save and keeps_files(trainer):
            write_image(self._folder / f"{stage}-{trainer.global_step:07d}.png", grid)
        self._rows = []


def log_folder(trainer: Trainer) -> Path:
    """The run's log folder; to be called by all processes together, as the first one tells the others.

    Args:
        trainer: The trainer.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def keeps_files(trainer: Trainer) -> bool:
    """Whether the run leaves files; a `fast_dev_run` leaves none.

    Args:
        trainer: The trainer.
    """
    return not getattr(trainer, "fast_dev_run", False)


def can_publish(trainer: Trainer) -> bool:
    """Whether some logger of the trainer takes pictures as TensorBoard's does.

    Args:
        trainer: The trainer.
    """
    return any(hasattr(getattr(logger, "experiment", None), "add_image") for logger in trainer.loggers)


def publish(trainer: Trainer, tag: str, image: Tensor) -> None:
    """Give a picture to all loggers that take one; to be called by the first process only.

    Args:
        trainer: The trainer.
        tag: Name of the picture.
        image: RGB in [0, 1], shape (3, H, W).
    """
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_image"):
            experiment.add_image(tag, image, trainer.global_step)
