"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    With a `start_share` s, w above is (1 - s) w + s w_0, where w_0 are the weights that training began with: a model
    that was tuned keeps a share of what it was tuned from (Wortsman et al., 2022, arXiv:2109.01903, Eq. 1).

    Args:
        decay: Upper limit of d.
        start_share: s, the share of the first weights in the averages.

    Raises:
        ValueError: If the decay or the share is not in [0, 1).
    """

    def __init__(self, decay: float = 0.999, start_share: float = 0.0) -> None:
        for name, value in (("decay", decay), ("start_share", start_share)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"Expected a {name} in [0, 1), found {value}.")
        self.decay, self.start_share = decay, start_share
        self.updates = 0
        """Optimizer steps averaged so far."""
        self.averages: dict[str, Tensor] = {}
        """Averaged parameters by their name in the module, float32."""
        self.start: dict[str, Tensor] = {}
        """w_0 by name, float32; empty without a share of it."""
        self._backup: dict[str, Tensor] = {}
        self._last_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Averages, first weights and the number of updates, for a checkpoint."""
        state: dict[str, Any] = {"averages": _cloned(self.averages), "updates": self.updates}
        return {**state, "start": _cloned(self.start)} if self.start_share > 0.0 else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint has.

        Args:
            state_dict: From `state_dict`.
        """
        self.averages, self.start = _cloned(state_dict["averages"]), _cloned(state_dict.get("start", {}))
        self.updates = int(state_dict["updates"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the weights as they are, unless a checkpoint brought averages.

        Args:
            trainer: The trainer.
            pl_module: The module.

        Raises:
            ValueError: If the module trains nothing, or not what the checkpoint's averages are of, or the checkpoint
                lacks the first weights.
        """
        del trainer
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"EMA averages trainable parameters, but {type(pl_module).__name__} has none.")
        if not self.averages:
            self.averages = _cloned(trained)
            self.start = _cloned(trained) if self.start_share > 0.0 else {}
        elif self.averages.keys() != trained.keys():
            different = sorted(self.averages.keys() ^ trained.keys())
            raise ValueError(
                f"The checkpoint's averages are not of the parameters that are trained; {len(different)} differ, such "
                f"as {different[:3]}. Resume with the configuration that the checkpoint was trained with."
            )
        elif self.start_share > 0.0 and not self.start:
            raise ValueError(
                f"Expected the weights that training began with in the checkpoint, for start_share {self.start_share}, "
                "found none: it was trained without. Resume with start_share 0, or begin anew."
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
        if self.start_share > 0.0:
            current = list(torch._foreach_lerp(current, [self.start[name] for name in parameters], self.start_share))
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
        """Move averages and first weights to the parameters' devices; a checkpoint brings them on the CPU."""
        for kept in (self.averages, self.start):
            for name in kept:
                kept[name] = kept[name].to(parameters[name].device)


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().clone() for name, tensor in tensors.items()}


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Leave the inference mode that validation runs in: what is cloned and copied there could not be trained on."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield
