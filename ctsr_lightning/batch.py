"""Batches of images, as data loaders yield them, and which of their images a process counts."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DistributedSampler


class Batch(NamedTuple):
    """A batch of low-quality images with, where known, their ground truth.

    Images are RGB in [0, 1]. The low-quality image has its native size: networks upsample it themselves.
    """

    lq: Tensor
    """Low-quality images, shape (B, 3, h, w)."""
    gt: Tensor | None
    """Ground truth, shape (B, 3, scale * h, scale * w), or None where there is none (prediction)."""
    key: list[str]
    """One name per image, unique in its dataset: the file's path below its folder, without suffix."""


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
