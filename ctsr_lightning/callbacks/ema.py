"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn


class EMA(Callback):
    """Moving average of the trainable parameters, used in validation, test and prediction.

    After each optimizer step w_avg <- d w_avg + (1 - d) w, with d = min(decay, (1 + n) / (10 + n)) at the n-th step, so
    that early weights are forgotten soon. The averages are float32 whatever the precision, live in the callback's part
    of the checkpoint, and are absent from the module's: a checkpoint's `state_dict` holds the weights that training
    goes on from.

    Args:
        decay: Upper limit of d.

    Raises:
        ValueError: If the decay is not in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"Expected a decay in [0, 1), found {decay}.")
        self.decay = decay
        self.updates = 0
        """Optimizer steps averaged so far."""
        self.averages: dict[str, Tensor] = {}
        """Averaged parameters by their name in the module, float32."""
        self._backup: dict[str, Tensor] = {}
        self._last_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Averages and their number of updates, for a checkpoint."""
        averages = {name: average.detach().clone() for name, average in self.averages.items()}
        return {"averages": averages, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages of a checkpoint."""
        self.averages = {name: average.float().clone() for name, average in state_dict["averages"].items()}
        self.updates = int(state_dict["updates"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the weights as they are, unless a checkpoint brought averages.

        Args:
            trainer: The trainer.
            pl_module: The module.

        Raises:
            ValueError: If the module trains nothing, or not what the checkpoint's averages are of.
        """
        del trainer
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"EMA averages trainable parameters, but {type(pl_module).__name__} has none.")
        if not self.averages:
            self.averages = {name: p.detach().float().clone() for name, p in trained.items()}
        elif self.averages.keys() != trained.keys():
            different = sorted(self.averages.keys() ^ trained.keys())
            raise ValueError(
                f"The checkpoint's averages are not of the parameters that are trained; {len(different)} differ, such "
                f"as {different[:3]}. Resume with the configuration that the checkpoint was trained with."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where training begins, after a checkpoint's step has been restored."""
        del pl_module
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average if the optimizer has stepped; with gradient accumulation it does so after some batches only."""
        del outputs, batch, batch_idx
        if trainer.global_step > self._last_step:
            self._last_step = trainer.global_step
            self.update(pl_module)

    @torch.no_grad()
    def update(self, pl_module: nn.Module) -> None:
        """Average once.

        Args:
            pl_module: The module.
        """
        parameters = self._parameters(pl_module)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self._follow(parameters)
        current = [parameter.detach().float() for parameter in parameters.values()]
        torch._foreach_lerp_([self.averages[name] for name in parameters], current, 1.0 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self, pl_module: nn.Module) -> Iterator[None]:
        """Context in which the module's trainable parameters are the averages, for validation or export.

        Args:
            pl_module: The module.
        """
        mine = not self._backup and bool(self.averages)
        if mine:
            self._swap_in(pl_module)
        try:
            yield
        finally:
            if mine:
                self._swap_out(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages."""
        del trainer
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the weights."""
        del trainer
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test the averages."""
        del trainer
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the weights back."""
        del trainer
        self._swap_out(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict with the averages."""
        del trainer
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the weights back."""
        del trainer
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the weights back, also when a validation is interrupted: a checkpoint may be written next."""
        del trainer, exception
        self._swap_out(pl_module)

    def _swap_in(self, pl_module: nn.Module) -> None:
        if self._backup or not self.averages:
            return
        parameters = self._parameters(pl_module)
        self._follow(parameters)
        with _ordinary_tensors():
            self._backup = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            for name, parameter in parameters.items():
                parameter.copy_(self.averages[name])

    def _swap_out(self, pl_module: nn.Module) -> None:
        if not self._backup:
            return
        with _ordinary_tensors():
            for name, parameter in self._parameters(pl_module).items():
                parameter.copy_(self._backup[name])
        self._backup = {}

    def _parameters(self, pl_module: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(pl_module.named_parameters())
        absent = [name for name in self.averages if name not in parameters]
        if absent:
            raise ValueError(
                f"The averages hold {len(absent)} parameters that {type(pl_module).__name__} lacks, such as "
                f"{absent[:3]}. Use the configuration that the checkpoint was trained with."
            )
        return {name: parameters[name] for name in self.averages}

    def _follow(self, parameters: dict[str, nn.Parameter]) -> None:
        """Move the averages to the parameters' devices; a checkpoint brings them on the CPU."""
        for name, parameter in parameters.items():
            self.averages[name] = self.averages[name].to(parameter.device)


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Leave the inference mode that validation runs in: what is cloned and copied there could not be trained on."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield
