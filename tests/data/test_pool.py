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


def data_of(**options: object) -> RealESRGANDataModule:
    data = RealESRGANDataModule(**{"crop": 32, "val_crop": 32, "batch_size": 2, "pool": 5, "num_workers": 0, **options})
    data.setup("fit")
    return data


def test_workers_make_the_same_samples_anew() -> None:
    threads = torch.get_num_threads()
    seen: list[dict[str, list[torch.Tensor]]] = []
    for workers in (0, 2):
        torch.set_num_threads(2 - workers // 2)
        loader = data_of(num_workers=workers, samples_per_epoch=6).train_dataloader()
        assert hasattr(loader.dataset, "_samples") is (workers == 0)
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs += [image for batch in loader for image in batch.lq]
        seen.append({"lq": epochs})
    torch.set_num_threads(threads)
    assert len(seen[0]["lq"]) == 12
    assert all(torch.equal(one, other) for one, other in zip(seen[0]["lq"], seen[1]["lq"], strict=True))
    assert len({image.numpy().tobytes() for image in seen[0]["lq"]}) == 5


def test_every_image_of_a_pool_once() -> None:
    trained = data_of(samples_per_epoch=6).train_dataloader()
    images = {image.numpy().tobytes() for batch in trained for image in batch.lq}
    data = data_of()
    together = [image.numpy().tobytes() for batch in data.finite_dataloaders(3)["train"] for image in batch.lq]
    assert len(together) == len(set(together)) == 5
    assert images == set(together)
    parts = [data.finite_dataloaders(2, rank, 3) for rank in range(3)]
    train = [[image.numpy().tobytes() for batch in part["train"] for image in batch.lq] for part in parts]
    assert train == [together[rank::3] for rank in range(3)]
    names = [[key for batch in part["val"] for key in batch.key] for part in parts]
    assert names == [["chelsea"], ["coffee"], []]


def test_a_larger_pool_holds_a_smaller_one() -> None:
    draws_of = [data_of(pool=pool).finite_dataloaders(1)["train"].sampler for pool in (3, 7)]
    assert draws_of[1][:3] == draws_of[0]


def test_an_endless_stream_is_not_listed() -> None:
    with pytest.raises(ValueError, match="set the data's `pool`"):
        data_of(pool=None).finite_dataloaders(1)


def test_a_pool_is_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="`pool` of at least 1, or null, found 0"):
        RealESRGANDataModule(pool=0)
