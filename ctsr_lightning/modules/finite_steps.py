"""What a training does about losses and gradients that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

LOG = logging.getLogger("lightning.pytorch.ctsr_lightning")  # the trainer's, of this process


class FiniteSteps:
    """Leaves out optimizer steps whose losses or gradients are not finite, and ends a training that has only those.

    All processes leave out the same steps. In 16-bit mixed precision gradients that overflow while the loss is finite
    are how the loss scaler finds its scale: they are left out and counted, but neither reported nor a reason to end.

    Args:
        limit: Such steps in a row after which the training ends.

    Raises:
        ValueError: If the limit is less than 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"Expected max_skipped_steps of at least 1, found {limit}.")
        self.limit = limit
        self.skipped = 0
        """Steps left out so far in this run."""
        self.gradient_norm = float("nan")
        """Norm of all gradients in the last step, before clipping; on each process that of its own shard."""
        self.in_a_row = 0
        """Steps left out since the last one that was made, without those of the loss scaler."""
        self._keys: list[str] = []
        self._terms: dict[str, list[str]] = {}

    def note(self, keys: Sequence[str], terms: Mapping[str, Tensor]) -> None:
        """Note a batch's images and which of its loss terms are not finite.

        Args:
            keys: Names of the images.
            terms: Scalars by name.
        """
        self._keys += keys
        finite = torch.stack([torch.isfinite(term.detach()).all() for term in terms.values()]).tolist()
        bad = [name for name, fine in zip(terms, finite, strict=True) if not fine]
        if bad:
            self._terms.update({name: [*self._terms.get(name, []), *keys] for name in bad})

    def check(self, trainer: Trainer, parameters: Iterable[nn.Parameter]) -> None:
        """Before a step: drop its gradients if it is to be left out.

        Args:
            trainer: The trainer.
            parameters: All trained parameters.
        """
        trained = list(parameters)
        gradients = [p.grad.detach() for p in trained if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        fine = torch.stack([norm.isfinite().all(), norm.new_tensor(not self._terms, dtype=torch.bool)]).float()
        if trainer.world_size > 1:
            fine = fine.to(trainer.strategy.root_device)
            torch.distributed.all_reduce(fine, torch.distributed.ReduceOp.MIN)
        gradients_fine, losses_fine = fine.bool().tolist()
        keys, terms, self._keys, self._terms = self._keys, self._terms, [], {}
        self.gradient_norm = float(norm)
        if gradients_fine and losses_fine:
            self.in_a_row = 0
            return
        for parameter in trained:
            parameter.grad = None
        self.skipped += 1
        if losses_fine and _scales_losses(trainer):
            return
        self.in_a_row += 1
        if terms or losses_fine:  # other processes have the terms otherwise
            what = f"the loss ({', '.join(terms)})" if terms else "the gradient"
            images = sorted({key for bad in terms.values() for key in bad}) or keys
            LOG.warning(
                f"Step {trainer.global_step} is skipped: {what} holds NaN or infinity, on {_names(images)}. "
                f"{self.skipped} skipped so far."
            )

    def end(self, step: int) -> None:
        """After a step: end the training if there were too many such steps.

        Args:
            step: The training's step.

        Raises:
            ValueError: In all processes, if too many steps in a row were left out.
        """
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"{self.in_a_row} steps in a row had losses or gradients with NaN or infinity, so the training ends "
                f"at step {step}. Its last checkpoint, if there is one, is from before these. Lower the learning rate, "
                "clip gradients, or use bf16-mixed or 32-true; look at the images named above."
            )


def _scales_losses(trainer: Trainer) -> bool:
    """Whether a loss scaler is still looking for its scale, above 1."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() > 1.0


def _names(keys: Sequence[str], shown: int = 8) -> str:
    """Names of a few images, and how many more."""
    names = ", ".join(f"'{key}'" for key in keys[:shown])
    return names + (f" and {len(keys) - shown} more" if len(keys) > shown else "")
