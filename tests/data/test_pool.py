"""A pool of training samples: made once, then repeated in new orders."""

import pytest
import torch

from ctsr_lightning.data import RealESRGANDataModule
from ctsr_lightning.data.samplers import TrainingSampler


def draws(sampler: TrainingSampler, epochs: int) -> list[list[object]]:
    result: list[list[object]] = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        result.append(list(sampler))
    return result


def test_a_pool_repeats_its_draws_in_new_orders() -> None:
    first, second, third = draws(TrainingSampler(5, 12, pool=12), 3)
    assert set(first) == set(second) == set(third)
    assert len(set(first)) == 12
    assert first != second != third


def test_without_a_pool_no_draw_comes_twice() -> None:
    first, second = draws(TrainingSampler(5, 12), 2)
    assert not set(first) & set(second)


def test_processes_share_one_pool() -> None:
    together = draws(TrainingSampler(5, 12, pool=6), 2)
    halves = [draws(TrainingSampler(5, 12, pool=6, rank=rank, world_size=2), 2) for rank in range(2)]
    for epoch in range(2):
        assert [d for pair in zip(halves[0][epoch], halves[1][epoch], strict=True) for d in pair] == together[epoch]


def test_samples_are_made_once() -> None:
    data = RealESRGANDataModule(crop=32, batch_size=2, samples_per_epoch=4, pool=4, num_workers=0)
    data.setup("fit")
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([data.on_after_batch_transfer(batch, 0).lq for batch in loader]))
    ordered = [epoch[epoch.flatten(1).sum(dim=1).argsort()] for epoch in epochs]
    assert torch.equal(*ordered)
    assert len(loader.dataset._samples) == 4


def test_a_pool_needs_the_main_process() -> None:
    with pytest.raises(ValueError, match="num_workers: 0"):
        RealESRGANDataModule(pool=4, num_workers=2)
