"""Speed, waiting, images, gradients and memory in the log."""

import time

import pytest
import torch
from lightning import Callback
from torch import nn

from ctsr_lightning.callbacks import TrainingStatistics
from ctsr_lightning.modules import TrainingModule
from helpers import tiny


class Slope(TrainingModule):
    """The gradient of 3 w + 4 v has norm 5."""

    def __init__(self):
        super().__init__(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
        self.w, self.v = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def losses(self, batch):
        del batch
        return {"slope": 3 * self.w.sum() + 4 * self.v.sum()}


class Slow(tiny.ToyPairs):
    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)


class Watch(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append({k: v.item() for k, v in trainer.logged_metrics.items()})


def run(data, **options):
    statistics, watch = TrainingStatistics(), Watch()
    loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=tiny.loader().collate_fn)
    tiny.fit(Slope(), loader, callbacks=[statistics, watch], log_every_n_steps=1, **options)
    return statistics, watch.seen


def test_what_is_logged():
    statistics, seen = run(tiny.ToyPairs(), max_epochs=2)
    assert statistics.state_dict() == {"images_seen": 16}
    values = seen[-1]
    assert values["training/gradient_norm"] == pytest.approx(5.0)
    assert values["training/skipped_steps"] == 0
    assert values["training/images_per_second"] > 0
    assert 0 <= values["training/waiting_for_data"] <= 1
    assert values["training/peak_memory_gb"] > 0.01


def test_slow_data_is_seen():
    _, seen = run(Slow(), max_epochs=1)
    assert seen[-1]["training/waiting_for_data"] > 0.5
    assert seen[-1]["training/images_per_second"] < 50


def test_images_are_counted_on():
    statistics = TrainingStatistics()
    statistics.load_state_dict({"images_seen": 40})
    tiny.fit(Slope(), max_steps=2, callbacks=[statistics])
    assert statistics.images_seen == 44
