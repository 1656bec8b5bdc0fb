"""Random numbers of a training step, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Draws:
    """Draws per-sample random numbers for the batch of all processes and keeps this process's share.

    Sample k of process r is sample k * world_size + r of the whole batch, as DistributedSampler deals them. With the
    same seed two processes of batch 4 therefore see the numbers of one process with batch 8, and a resumed run those of
    an uninterrupted one. Numbers are drawn on the CPU, so that every device gets the same.

    Args:
        seed: Seed of this step.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rank, self.world_size = rank, world_size

    def _share(self, drawn: Tensor, device: torch.device) -> Tensor:
        return drawn[self.rank :: self.world_size].to(device)

    def normal(self, like: Tensor) -> Tensor:
        """ε ~ N(0, I) with the shape, type and device of `like`, (B, ...)."""
        shape = (like.shape[0] * self.world_size, *like.shape[1:])
        return self._share(torch.randn(shape, generator=self.generator), like.device).to(like.dtype)

    def integers(self, low: int, high: int, like: Tensor) -> Tensor:
        """One integer from {low..high} per sample of `like`, shape (B,)."""
        drawn = torch.randint(low, high + 1, (like.shape[0] * self.world_size,), generator=self.generator)
        return self._share(drawn, like.device)

    def uniform(self, like: Tensor) -> Tensor:
        """One number from U(0, 1) per sample of `like`, shape (B,)."""
        drawn = torch.rand(like.shape[0] * self.world_size, generator=self.generator, dtype=torch.float64)
        return self._share(drawn.to(like.dtype), like.device)


class NamedDraws(Draws):
    """Draws for images that are measured: an image's numbers depend on its name, not on the batch or process it is in.

    Args:
        seeds: One seed per image of the batch.
    """

    def __init__(self, seeds: list[int]) -> None:
        super().__init__(seeds[0] if seeds else 0)
        self._each = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, like: Tensor) -> Tensor:
        """ε ~ N(0, I) with the shape, type and device of `like`, (B, ...)."""
        return self._stacked(lambda g: torch.randn(like.shape[1:], generator=g), like).to(like.dtype)

    def integers(self, low: int, high: int, like: Tensor) -> Tensor:
        """One integer from {low..high} per sample of `like`, shape (B,)."""
        return self._stacked(lambda g: torch.randint(low, high + 1, (), generator=g), like)

    def uniform(self, like: Tensor) -> Tensor:
        """One number from U(0, 1) per sample of `like`, shape (B,)."""
        return self._stacked(lambda g: torch.rand((), generator=g, dtype=torch.float64), like).to(like.dtype)

    def _stacked(self, draw: Callable[[torch.Generator], Tensor], like: Tensor) -> Tensor:
        """One draw per image; where a loss takes several samples of each image, in turn."""
        count = len(self._each)
        return torch.stack([draw(self._each[i % count]) for i in range(like.shape[0])]).to(like.device)
