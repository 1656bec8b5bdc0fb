"""Samplers: an endless seeded stream for training, every image once for evaluation; and a loader that resumes."""

from __future__ import annotations

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, DistributedSampler


class Draw(NamedTuple):
    """A training sample to make: which image, and the seed of its crop, flip and degradation."""

    image: int
    """Position in the dataset."""
    seed: int
    """Seed of all random choices."""


def stable_seed(*parts: object) -> int:
    """A seed from values, the same on every machine and in every process.

    Args:
        parts: Anything whose text says what it is.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).digest(), "little")


BLOCK: Final = 10_000
"""Draws among which each group of images has exactly its share, rounded to one of them."""


def quotas(weights: Sequence[float]) -> list[int]:
    """Draws of each group in a block, which add up to `BLOCK`: rounded by largest remainders.

    Args:
        weights: Shares relative to each other, positive.

    Raises:
        ValueError: If a group would have no draw.
    """
    exact = [BLOCK * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda group: counts[group] - exact[group])
    for group in by_rest[: BLOCK - sum(counts)]:
        counts[group] += 1
    if not all(counts):
        least = min(weights) / sum(weights)
        raise ValueError(
            f"Expected weights that give each source at least 1 in {BLOCK:,} draws, found a share of {least:.1g}. "
            "Raise its weight; sources without a weight weigh as much as their number of images."
        )
    return counts


class TrainingSampler(DistributedSampler[Any]):
    """An endless, seeded stream of draws; epoch e is its slice from e * length to (e + 1) * length.

    The stream runs through one random order of all images after the other, so images come equally often however long
    an epoch is. Groups of images with weights have their exact shares in every `BLOCK` draws, in random order, and
    within a group images come equally often. Process r of n takes the draws r, r + n, ...: together they always make
    the same epoch.

    Args:
        images: Size of the dataset that is drawn from, or the sizes of the groups that follow each other in it, each
            with its weight.
        length: Draws per epoch over all processes, a multiple of their number.
        seed: Seed of the stream.
        rank: This process.
        world_size: Number of processes.
        pool: Number of distinct draws. The stream then runs through these over and over, each time in another order.
    """

    def __init__(
        self,
        images: int | Sequence[tuple[int, float]],
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool: int | None = None,
    ) -> None:
        groups = [(images, 1.0)] if isinstance(images, int) else list(images)
        count = sum(size for size, _ in groups)
        # The base class is what Lightning knows to leave alone; it needs no more of the dataset than its size.
        super().__init__(range(count), num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        if length % world_size:
            raise ValueError(f"Expected an epoch length divisible by the {world_size} processes, found {length}.")
        self.groups = groups
        self.quotas = quotas([weight for _, weight in groups])
        self.total_size = length
        self.num_samples = length // world_size
        self.pool = pool
        self.skip = 0
        """Draws of this process to leave out at the start of the next epoch, then forgotten."""

    def __iter__(self) -> Iterator[Draw]:
        skip, self.skip = self.skip, 0
        start = self.epoch * self.total_size
        images, pool = self._images(), self._rounds(self.pool or 1, "pool")
        for position in range(start + self.rank + skip * self.num_replicas, start + self.total_size, self.num_replicas):
            place = position if self.pool is None else pool(position)
            yield Draw(images(place), stable_seed(self.seed, "draw", place))

    def _images(self) -> Callable[[int], int]:
        """Map positions of an endless stream to images."""
        if len(self.groups) == 1:
            return self._rounds(self.groups[0][0], "order")
        within = [self._rounds(size, f"order of {number}") for number, (size, _) in enumerate(self.groups)]
        first = [0, *accumulate(size for size, _ in self.groups)]
        slots, ends = self._rounds(BLOCK, "groups"), list(accumulate(self.quotas))

        def image(position: int) -> int:
            slot = slots(position)
            group = bisect_right(ends, slot)
            turn = position // BLOCK * self.quotas[group] + slot - ends[group] + self.quotas[group]
            return first[group] + within[group](turn)

        return image

    def _rounds(self, size: int, purpose: str) -> Callable[[int], int]:
        """Map positions of an endless stream to 0 … size - 1, in a new random order every round."""

        @functools.lru_cache(maxsize=2 + BLOCK // size)  # the rounds that a block can touch
        def order(number: int) -> npt.NDArray[np.int64]:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, purpose, number))
            return torch.randperm(size, generator=generator).numpy()

        return lambda position: int(order(position // size)[position % size])


class EvaluationSampler(DistributedSampler[Any]):
    """Every image exactly once over all processes, in order: process r of n takes images r, r + n, ...

    Shares are not padded to equal length. Only a process that would get nothing at all is given a repetition, which
    the evaluation callbacks do not count: Lightning leaves such a process out of the pass, and the others would wait
    for it for ever.

    Args:
        images: Size of the dataset.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, images: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(images), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(rank, images, world_size) or range(rank % images, rank % images + 1)
        self.num_samples = len(self.positions)
        self.total_size = max(images, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)


class ResumableLoader(DataLoader[Any]):
    """A training loader that continues in the middle of an epoch: checkpoints hold how far it has come.

    Its sampler is a `TrainingSampler`. Lightning saves and restores the state with the loops.
    """

    trained: int | None = None
    """Batches of the epoch that were trained on, if anyone counts: those lost to Ctrl-C then come again."""
    _delivered = 0
    _resume: tuple[int, int] | None = None

    @property
    def _stream(self) -> TrainingSampler | None:
        """The sampler, unless the trainer has put another one in its place, as `overfit_batches` does."""
        return self.sampler if isinstance(self.sampler, TrainingSampler) else None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing is drawn before the first batch is requested, when the epoch is known for certain.
        (epoch, batches), stream = self._resume or (-1, 0), self._stream
        start = batches if stream is not None and epoch == stream.epoch and batches < len(self) else 0
        self._resume = None
        self._delivered = start
        self.trained = None if self.trained is None else start
        if stream is not None:
            stream.skip = start * (self.batch_size or 1)
        for batch in super().__iter__():
            self._delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, the batches done in it, and the samples of a batch over all processes."""
        epoch = self._stream.epoch if self._stream is not None else 0
        done = self._delivered if self.trained is None else min(self._delivered, self.trained)
        epoch, done = self._resume or (epoch, done)  # as it was, if nothing was drawn yet
        return {"epoch": epoch, "batches": done, "samples": self._samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that a state counts, if its epoch is the one that comes next.

        Args:
            state: A result of `state_dict`.

        Raises:
            ValueError: If batches had another size.
        """
        if (known := state.get("samples", self._samples)) != self._samples:
            raise ValueError(
                f"Expected batches of {known} samples over all processes, as in the checkpoint's training, found "
                f"{self._samples}. Resume with `batch_size` times devices of {known}, or begin anew from its weights."
            )
        self._resume = (state["epoch"], state["batches"])

    @property
    def _samples(self) -> int:
        return (self.batch_size or 1) * (self._stream.num_replicas if self._stream is not None else 1)
