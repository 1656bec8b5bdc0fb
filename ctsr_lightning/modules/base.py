"""Base classes of the trainings: optimizer, logging, random numbers and checkpoints; a training adds its `losses`."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from ctsr_lightning.batch import Batch
from ctsr_lightning.modules.draws import Draws, NamedDraws
from ctsr_lightning.modules.finite_steps import FiniteSteps
from ctsr_lightning.modules.loss_means import LossMeans
from ctsr_lightning.modules.lr_schedule import WarmupCosine

_configured: ContextVar[bool] = ContextVar("configured", default=False)


@contextmanager
def configured() -> Iterator[None]:
    """Within this context trainings are built from a configuration, which their checkpoints then carry.

    Outside of it they are built from networks, which must not be pickled into a checkpoint.
    """
    token = _configured.set(True)
    try:
        yield
    finally:
        _configured.reset(token)


class TrainingModule(LightningModule, ABC):
    """A training: named loss terms, one optimizer over what is trainable, checkpoints of the same.

    Args:
        optimizer: Makes the optimizer from the trainable parameters (paper: AdamW, 5e-5, betas 0.9 and 0.999).
        scheduler: Makes the learning-rate schedule from the optimizer; it advances every optimizer step.
        max_skipped_steps: Steps with a loss or gradient that is not finite are skipped; so many in a row end the
            training.

    Raises:
        ValueError: If `max_skipped_steps` is less than 1.
    """

    validates_losses: bool = False
    """Whether validation logs the loss terms, for trainings without a restored image to judge."""

    def __init__(
        self,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-5),
        scheduler: LRSchedulerCallable | None = None,
        max_skipped_steps: int = 10,
    ) -> None:
        super().__init__()
        if _configured.get():  # Lightning then knows plain values from which the model can be built again
            self.save_hyperparameters(logger=False)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.draws = Draws()
        self.finite_steps = FiniteSteps(max_skipped_steps)
        self._means = LossMeans(None)

    def setup(self, stage: str) -> None:
        """Refuse precisions in which the closed forms would lose what they are there for.

        Raises:
            ValueError: If the weights themselves are to be half precision.
        """
        del stage
        if self.trainer.precision in {"bf16-true", "16-true"}:
            mixed = str(self.trainer.precision).replace("true", "mixed")
            raise ValueError(
                f"Precision '{self.trainer.precision}' rounds images and schedules as well. Use '{mixed}': "
                "networks then compute in half precision, closed forms and metrics in float32."
            )

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the weighted loss terms of a batch; random numbers come from `self.draws`.

        Args:
            batch: Images with ground truth.

        Returns:
            Scalars by name. Their sum is minimised; each is logged as `train/<name>`.
        """

    def ground_truth(self, batch: Batch, remedy: str = "Train on photographs or on pairs.") -> Tensor:
        """The ground truth of a batch, in [0, 1], for losses that need it.

        Args:
            batch: The batch.
            remedy: The last sentence of the error message.

        Raises:
            ValueError: If the batch has none.
        """
        if batch.gt is None:
            raise ValueError(f"Expected batches with ground truth for {type(self).__name__}, found none. {remedy}")
        return batch.gt

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum and log the terms."""
        self.draws = self._draws(self.current_epoch, batch_idx)
        return self._logged(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002  # Lightning's signature
        """Take the terms, with the same random numbers for an image every time, where a training asks for it."""
        if self.validates_losses:
            batch, count = self._means.counted(batch)
            self.draws = NamedDraws([self._seed(-1, key) for key in batch.key])
            self._means.add(self.losses(batch), count)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Same as validation."""
        TrainingModule.validation_step(self, batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Begin means of the terms."""
        if self.validates_losses:
            self._means = LossMeans(self.trainer.val_dataloaders)

    def on_validation_epoch_end(self) -> None:
        """Log the terms' means; callbacks measure the rest."""
        self._log_means("val")

    def on_test_epoch_start(self) -> None:
        """Begin means of the terms."""
        if self.validates_losses:
            self._means = LossMeans(self.trainer.test_dataloaders)

    def on_test_epoch_end(self) -> None:
        """Log the terms' means."""
        self._log_means("test")

    def _log_means(self, split: str) -> None:
        if self.validates_losses and (means := self._means.means(self.trainer)):
            logged = {f"{split}/{name}": value for name, value in {**means, "loss": sum(means.values())}.items()}
            # The values are equal in all processes already; a maximum rounds nothing.
            self.log_dict(logged, sync_dist=True, reduce_fx="max", batch_size=1)

    def _seed(self, epoch: int, what: int | str) -> int:
        text = f"{os.environ.get('PL_GLOBAL_SEED', '0')}/{epoch}/{what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def _draws(self, epoch: int, batch_idx: int) -> Draws:
        return Draws(self._seed(epoch, batch_idx), self.global_rank, self.trainer.world_size)

    def _logged(self, batch: Batch) -> Tensor:
        terms = self.losses(batch)
        self.finite_steps.note(batch.key, terms)
        total = torch.stack(list(terms.values())).sum()
        values = torch.stack([v.detach().float() for v in terms.values()])
        if self.trainer.world_size > 1:  # one collective for all terms: every rank logs the mean over ranks
            torch.distributed.all_reduce(values)
            values = values / self.trainer.world_size
        options: dict[str, Any] = {"batch_size": batch.lq.shape[0], "on_step": True, "on_epoch": False}
        self.log_dict({f"train/{name}": value for name, value in zip(terms, values, strict=True)}, **options)
        self.log("train/loss", values.sum(), prog_bar=True, **options)
        return total

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer; gradients are clipped per group."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def groups_beside(self, part: Iterable[nn.Parameter], lr: float | None) -> list[dict[str, Any]]:
        """Two parameter groups: all that is trained but a part, and that part.

        Args:
            part: The part's parameters.
            lr: Its learning rate; null takes the optimizer's.
        """
        known = {id(p) for p in part}
        trained = [p for p in self.parameters() if p.requires_grad]
        own: dict[str, Any] = {"params": [p for p in trained if id(p) in known], **({} if lr is None else {"lr": lr})}
        return [{"params": [p for p in trained if id(p) not in known]}, own]

    def configure_optimizers(self) -> Any:
        """One optimizer, its schedule counted in steps."""
        groups = self.parameter_groups()
        if not any(group["params"] for group in groups):
            raise ValueError(f"{type(self).__name__} has nothing to train: every parameter is frozen.")
        optimizer = self.make_optimizer(groups)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine) and scheduler.total_steps is None:
            scheduler.total_steps = max(1, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skip the step if its losses or gradients are not finite."""
        self.finite_steps.check(self.trainer, (p for group in optimizer.param_groups for p in group["params"]))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the training between two steps, where callbacks can save it, if too many in a row were skipped.

        Raises:
            ValueError: If they were.
        """
        del outputs, batch, batch_idx
        self.finite_steps.end(self.trainer.global_step)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip every parameter group by itself, so that networks trained side by side do not dampen each other."""
        if not gradient_clip_val:
            return
        for group in optimizer.param_groups:
            if gradient_clip_algorithm == "value":
                torch.nn.utils.clip_grad_value_(group["params"], gradient_clip_val)
            else:
                torch.nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)

    def trimmed_state(self) -> dict[str, Tensor]:
        """The trainable weights by name: all that a checkpoint holds."""
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name in names}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trainable weights only."""
        checkpoint["state_dict"] = self.trimmed_state()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a trimmed state: with `strict`, exactly the trainable weights.

        Raises:
            ValueError: If names are missing or unexpected, or sizes differ.
        """
        if strict:
            wanted = self.trimmed_state()
            missing, unexpected = sorted(wanted.keys() - state_dict.keys()), sorted(state_dict.keys() - wanted.keys())
            sizes = [
                f"{name}, {tuple(state_dict[name].shape)} for {tuple(value.shape)}"
                for name, value in wanted.items()
                if name in state_dict and state_dict[name].shape != value.shape
            ]
            if missing or unexpected or sizes:
                raise ValueError(
                    f"This checkpoint does not belong to this {type(self).__name__}: {len(missing)} weights are "
                    f"missing (first: {missing[:3]}), {len(unexpected)} unexpected (first: {unexpected[:3]}), "
                    f"{len(sizes)} of another size (first: {sizes[:3]}). "
                    "Use the configuration that the checkpoint was trained with."
                )
        return super().load_state_dict(state_dict, strict=False, assign=assign)


class RestorationModule(TrainingModule):
    """A training whose product restores images, so that evaluation, pictures and prediction apply to it."""

    method: str = "CTSR"
    """The method's name, for plots."""
    controllable: bool = False
    """Whether `sweep` restores at values of t."""
    fixed_references: bool = True
    """Whether `references` stay the same in training, so that callbacks compute them once."""
    scale: int

    @abstractmethod
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore images.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """Restorations to show beside this training's own, by name: those of its teachers, for one."""
        del batch
        return {}

    def setup(self, stage: str) -> None:
        """Refuse data of another scale.

        Raises:
            ValueError: If the data module's scale is not the model's.
        """
        super().setup(stage)
        data_scale = getattr(getattr(self.trainer, "datamodule", None), "scale", self.scale)
        if data_scale != self.scale:
            raise ValueError(f"Expected data of the model's scale {self.scale}, found {data_scale}. Set both alike.")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002  # Lightning's signature
        """Restore a batch; the writer callback turns it into files."""
        return {"restored": self.restore(batch.lq, batch.key)}

    def forward(self, lq: Tensor) -> Tensor:
        """Same as `restore`."""
        return self.restore(lq)
