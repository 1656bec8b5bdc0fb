"""Samplers: an endless seeded stream for training, every image once for evaluation; and a loader that resumes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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


class TrainingSampler(DistributedSampler[Any]):
    """An endless, seeded stream of draws; epoch e is its slice from e * length to (e + 1) * length.

    The stream runs through one random order of all images after the other, so images come equally often however long
    an epoch is. Process r of n takes the draws r, r + n, ...: together they always make the same epoch.

    Args:
        images: Size of the dataset that is drawn from.
        length: Draws per epoch over all processes, a multiple of their number.
        seed: Seed of the stream.
        rank: This process.
        world_size: Number of processes.
        pool: Number of distinct draws. The stream then runs through these over and over, each time in another order.
    """

    def __init__(
        self,
        images: int,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pool: int | None = None,
    ) -> None:
        # The base class is what Lightning knows to leave alone; it needs no more of the dataset than its size.
        super().__init__(range(images), num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        if length % world_size:
            raise ValueError(f"Expected an epoch length divisible by the {world_size} processes, found {length}.")
        self.images = images
        self.total_size = length
        self.num_samples = length // world_size
        self.pool = pool
        self.skip = 0
        """Draws of this process to leave out at the start of the next epoch, then forgotten."""

    def __iter__(self) -> Iterator[Draw]:
        skip, self.skip = self.skip, 0
        start = self.epoch * self.total_size
        images, pool = self._rounds(self.images, "order"), self._rounds(self.pool or 1, "pool")
        for position in range(start + self.rank + skip * self.num_replicas, start + self.total_size, self.num_replicas):
            place = position if self.pool is None else pool(position)
            yield Draw(images(place), stable_seed(self.seed, "draw", place))

    def _rounds(self, size: int, purpose: str) -> Callable[[int], int]:
        """Map positions of an endless stream to 0 … size - 1, in a new random order every round."""

        @functools.lru_cache(maxsize=2)
        def order(number: int) -> list[int]:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, purpose, number))
            return torch.randperm(size, generator=generator).tolist()

        return lambda position: order(position // size)[position % size]


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
