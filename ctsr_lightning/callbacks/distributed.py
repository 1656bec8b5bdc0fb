"""Passes of a trainer over images: which images a process counts, and restoring without disturbing the training."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DistributedSampler

from ctsr_lightning.batch import Batch


class Ownership:
    """Images of a pass that this process counts: those that its sampler did not repeat to make shares equal.

    `DistributedSampler` deals images out in turn, rank r getting the r-th, the (r + n)-th, …, and begins again from
    the first image until all ranks have equally many; what lies beyond the data set's length is such a repetition.

    Args:
        loaders: The loader of the pass, or a list of one.

    Raises:
        ValueError: If a process has no image at all: Lightning leaves it out of the pass, and the others would wait.
    """

    def __init__(self, loaders: Any) -> None:
        loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        batches = getattr(loader, "batch_sampler", None)
        sampler = getattr(batches, "sampler", None) or getattr(loader, "sampler", None)
        self._seen = 0
        self._first, self._stride = 0, 1
        self._images: int | None = None
        if isinstance(sampler, DistributedSampler):
            self._first, self._stride = sampler.rank, sampler.num_replicas
            self._images = len(sampler.dataset)  # type: ignore[arg-type]
            if max(self._images, sampler.total_size) < self._stride:
                raise ValueError(
                    f"Expected at least one image per process, found {self._images} for {self._stride} processes. "
                    "Evaluate on fewer devices, or with a sampler that repeats images: repetitions are not counted."
                )

    def select(self, size: int) -> list[int]:
        """Positions in the next batch of the images to count.

        Args:
            size: Number of images in the batch.
        """
        turns = range(self._seen, self._seen + size)
        self._seen += size
        if self._images is None:
            return list(range(size))
        return [i for i, turn in enumerate(turns) if turn * self._stride + self._first < self._images]


def checked_batch(batch: Any, dataloader_idx: int = 0) -> tuple[Batch, Tensor]:
    """A batch and its ground truth.

    Args:
        batch: An item of the data loader.
        dataloader_idx: Number of the data loader.

    Raises:
        ValueError: If it is no `Batch`, has no ground truth, or comes from a second data loader.
    """
    if not isinstance(batch, Batch):
        raise ValueError(f"Expected a Batch(lq, gt, key) from the data module, found {type(batch).__name__}.")  # noqa: TRY004
    if dataloader_idx:
        raise ValueError("Expected one data loader per pass, found several. Measure one data set after the other.")
    if batch.gt is None:
        raise ValueError(
            f"Expected ground truth to measure against, but the batch with '{batch.key[0]}' has none. "
            "Validate and test on pairs or on degraded photos; `predict` restores images without ground truth."
        )
    return batch, batch.gt


def check_finite(images: Tensor, keys: Sequence[str], label: str, trainer: Trainer) -> None:
    """Refuse images that hold NaN or infinity.

    Args:
        images: Restored images, shape (B, 3, H, W).
        keys: Their names.
        label: Name of the method that restored them.
        trainer: The trainer, for its step.

    Raises:
        ValueError: If a value is not finite; names the images.
    """
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [key for key, fine in zip(keys, finite.tolist(), strict=True) if not fine]
        raise ValueError(
            f"Expected finite images, but '{label}' at step {trainer.global_step} holds NaN or infinity for {bad}. "
            "The training has diverged or the precision is too low: lower the learning rate, clip gradients, or use "
            "bf16-mixed or 32-true."
        )


@contextmanager
def evaluation_rng(trainer: Trainer, keys: Sequence[str]) -> Iterator[None]:
    """Restore images in the trainer's precision, without gradients, and leave the training's random state untouched.

    Restorers that draw noise get the same noise for the same images each time.

    Args:
        trainer: The trainer.
        keys: Names of the images.
    """
    with isolate_rng(), trainer.precision_plugin.forward_context(), torch.no_grad():
        torch.manual_seed(zlib.crc32("\n".join(keys).encode()))
        yield
