"""Evaluation: every stage, teacher and baseline judged by the same metrics, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from ctsr_lightning.batch import Batch, Ownership
from ctsr_lightning.callbacks.distributed import check_finite, checked_batch, evaluation_rng
from ctsr_lightning.control import check_range
from ctsr_lightning.evaluation.labels import GRID, control_label, unrestored_label
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.methods import Method
from ctsr_lightning.images import enlarge
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.frechet import FeatureNetwork
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.lattice import Lattice, lattices
from ctsr_lightning.metrics.named import restoration_metrics
from ctsr_lightning.networks.frozen import Frozen

RESTORED, TRUTH = "restored", "gt"


class Evaluation(Callback):
    """Measures restored images against their ground truth in validation and test.

    An ordinary module is measured by `restore` and logged as `val/psnr_y`; a controllable one by `sweep`, once per
    control, and logged as `val/psnr_y/t=0.25`, its two ends also as `val/psnr_y/realness` (t = 0) and
    `val/psnr_y/fidelity` (t = 1), names for checkpoints to monitor. Baselines are `val/bicubic/psnr_y`, at scale 1
    `val/input/psnr_y`, and the module's `references`, `val/T_f/psnr_y`; they are measured in a training's first
    validation only, or in each one where the references change with the module (`fixed_references`).

    Every image counts once, although distributed samplers repeat some. Images are rounded to 8 bits before any metric.
    The metrics belong to the callback: they are in no checkpoint.

    Args:
        metrics: Metrics by name, updated as `update(restored, gt)`, beside `psnr_y` and `ssim_y`; null under one of
            these names leaves it out.
        controls: Values of t in [0, 1] to measure controllable modules at.
        perceptual: A perceptual distance to measure as well, under its own name.
        fid: A feature network to measure a Fréchet distance over, as `fid_` and its name.
        baselines: Whether to measure bicubic enlargement and the module's references.
        grid: Whether to measure `grid_energy` and lattices (`lattice_4`, `lattice_8`), too, by the factor of the
            module's codec; modules without one have none, nor have images that are too small for lattices. As a
            baseline, the lattices of the ground truth are measured: `val/gt/lattice_4`.

    Raises:
        ValueError: If a control leaves [0, 1], or none is given, or two metrics have one name.
    """

    def __init__(
        self,
        metrics: dict[str, Metric | None] | None = None,
        controls: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        perceptual: PerceptualDistance | None = None,
        fid: FeatureNetwork | None = None,
        baselines: bool = True,
        grid: bool = True,
    ) -> None:
        self.controls = check_range(sorted(set(controls)))
        self.perceptual_name = None if perceptual is None else perceptual.name
        self.baselines, self.grid = baselines, grid
        self.results: dict[str, dict[str, float]] = {}
        """Values of the last completed pass: label (`restored`, `t=0.25`, `bicubic`, `T_f`), then metric."""
        self._chosen = restoration_metrics(metrics, perceptual, fid)
        self._metrics = self._chosen
        self._measurements = Measurements({})
        self._owned = Ownership(None)
        self._measured_baselines: dict[str, dict[str, dict[str, float]]] = {}
        self._fixed = True

    @property
    def higher_is_better(self) -> dict[str, bool | None]:
        """Direction of each metric."""
        return {name: metric.higher_is_better for name, metric in self._metrics.items()}

    @property
    def control_labels(self) -> list[str]:
        """Labels that a controllable module's results have, in the order of t."""
        return [control_label(control) for control in self.controls]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the baselines, as a new run may bring other data, and learn the grid that the module's codec has.

        Args:
            trainer: The trainer.
            pl_module: The module.
            stage: The trainer's function.

        Raises:
            ValueError: If the module does not restore images.
        """
        del trainer, stage
        if not hasattr(pl_module, "restore"):
            raise ValueError(
                f"Evaluation measures restored images, but {type(pl_module).__name__} "
                "restores none: remove the callback."
            )
        self._measured_baselines.clear()
        self._fixed = getattr(pl_module, "fixed_references", True)
        factor = codec_factor(pl_module)
        patterns = {GRID: GridEnergy(factor), **lattices(factor)} if self.grid and factor is not None else {}
        self._metrics = {**self._chosen, **{n: m for n, m in patterns.items() if n not in self._chosen}}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass over the validation images."""
        self._begin(pl_module, trainer.val_dataloaders, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass over the test images."""
        self._begin(pl_module, trainer.test_dataloaders, "test")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch of validation images."""
        del outputs, batch_idx
        self._measure(trainer, pl_module, batch, "val", dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch of test images."""
        del outputs, batch_idx
        self._measure(trainer, pl_module, batch, "test", dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation results."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the test results."""
        self._finish(trainer, pl_module, "test")

    def _begin(self, pl_module: LightningModule, loaders: Any, stage: str) -> None:
        """Start from empty measurements."""
        # Apple's GPU has no float64, in which means are taken.
        device = torch.device("cpu") if pl_module.device.type == "mps" else pl_module.device
        self._measurements = Measurements(self._metrics, device, truth=self._measures_baselines(stage))
        self._owned = Ownership(loaders)

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        checked, gt = checked_batch(batch, dataloader_idx)
        counted = self._owned.select(len(checked.key))
        if not counted:
            return
        keys = [checked.key[i] for i in counted]
        for method, images in self._restore(trainer, pl_module, checked, gt, stage).items():
            restored = images[counted].float()
            check_finite(restored, keys, method.label, trainer)
            self._measurements.add_batch(keys, method, restored, gt[counted])

    def _restore(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, gt: Tensor, stage: str
    ) -> dict[Method, Tensor]:
        """All images to measure, by method."""
        module: Any = pl_module
        with evaluation_rng(trainer, batch.key):
            restored = (
                module.sweep(batch.lq, self.controls, batch.key)
                if module.controllable
                else [module.restore(batch.lq, batch.key)]
            )
            images = dict(zip(self._methods(pl_module), restored, strict=True))
            if self._measures_baselines(stage):
                images[Method(unrestored_label(module.scale), "bicubic")] = enlarge(batch.lq, gt)
                images |= {Method(label, "teacher"): image for label, image in module.references(batch).items()}
        return images

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        measurements = self._measurements
        measurements.gather()
        values = {
            summary.method.label: {
                name: value
                for name, value in summary.values.items()  # images may all be too small for a lattice
                if not (isinstance(self._metrics[name], Lattice) and math.isnan(value))
            }
            for summary in measurements.summaries()
        }
        own = {method.label: values.pop(method.label) for method in self._methods(pl_module)}
        if self._measures_baselines(stage):
            truth = {name: value for name, value in measurements.ground_truth.items() if not math.isnan(value)}
            self._measured_baselines[stage] = {**values, **({TRUTH: truth} if truth else {})}
        baselines = self._measured_baselines.get(stage, {})
        self.results = {**own, **baselines}
        self._log(pl_module, own, baselines, stage)

    def _log(
        self,
        pl_module: LightningModule,
        own: Mapping[str, Mapping[str, float]],
        baselines: Mapping[str, Mapping[str, float]],
        stage: str,
    ) -> None:
        logged: dict[str, float] = {}
        ends = {control_label(0.0): "realness", control_label(1.0): "fidelity"}
        for label, values in own.items():
            for metric, value in values.items():
                name = f"{stage}/{metric}"
                logged[name if label == RESTORED else f"{name}/{label}"] = value
                if label in ends:
                    logged[f"{name}/{ends[label]}"] = value
        logged.update(
            {f"{stage}/{label}/{m}": value for label, values in baselines.items() for m, value in values.items()}
        )
        # The values are equal in all processes already. Lightning asks for a reduction; a maximum, other than a mean of
        # three equal numbers, rounds nothing.
        pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max", batch_size=1)

    def _measures_baselines(self, stage: str) -> bool:
        return self.baselines and not (self._fixed and stage in self._measured_baselines)

    def _methods(self, pl_module: LightningModule) -> list[Method]:
        module: Any = pl_module
        if module.controllable:
            return [Method(control_label(control), "ctsr", control) for control in self.controls]
        return [Method(RESTORED, "restored")]


def codec_factor(module: nn.Module) -> int | None:
    """Pixels per latent along each side of the codec that a module's own restorations come from.

    Args:
        module: A training: with a codec itself, or a `student` or `network` with one.

    Returns:
        The factor; None without such a codec, or where one latent is one pixel and there are no patches.
    """
    for owner in (module, getattr(module, "student", None), getattr(module, "network", None)):
        codec = getattr(owner.network if isinstance(owner, Frozen) else owner, "codec", None)
        factor = getattr(codec, "factor", 1)
        if factor > 1:
            return int(factor)
    return None
