"""Loss terms over the images of a validation or test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ctsr_lightning.batch import Batch, Ownership


class LossMeans:
    """Means over a pass in which each image counts once, for any number of processes, batches and images.

    Processes exchange sums once, at the end of the pass: they need not have equally many batches.

    Args:
        loaders: The loader of the pass, or a list of one.
    """

    def __init__(self, loaders: Any) -> None:
        self._owned = Ownership(loaders)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def counted(self, batch: Batch) -> tuple[Batch, int]:
        """The images of the next batch that count, and their number; all images where none does.

        Args:
            batch: The batch.
        """
        positions = self._owned.select(len(batch.key))
        if positions and len(positions) < len(batch.key):
            gt = None if batch.gt is None else batch.gt[positions]
            batch = Batch(batch.lq[positions], gt, [batch.key[i] for i in positions])
        return batch, len(positions)

    def add(self, terms: Mapping[str, Tensor], count: int) -> None:
        """Add a batch.

        Args:
            terms: Its terms, means over its images.
            count: Number of its images that count.
        """
        for name, value in terms.items():
            weighted = value.detach().cpu().double() * count if count else torch.zeros((), dtype=torch.float64)
            self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.float64)) + weighted
        self._count += count

    def means(self, trainer: Trainer) -> dict[str, float]:
        """The means of all processes, which call this together; without images, none.

        Args:
            trainer: The trainer.
        """
        sums = torch.stack([*self._sums.values(), torch.tensor(float(self._count), dtype=torch.float64)])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        *totals, count = sums.tolist()
        return {name: total / count for name, total in zip(self._sums, totals, strict=True)} if count else {}
