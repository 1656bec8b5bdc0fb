"""A training that is stopped or killed at any moment goes on bit for bit, and loses no validation."""

import shutil
import signal

import pytest
import torch
from lightning import Callback

from ctsr_lightning.callbacks.stopping import Stopped
from helpers.resumed_runs import AT_ITS_END, MID_EPOCH, STEPS, WITHIN, Record, Signal, contents, train

VALIDATED = {"every third step": MID_EPOCH, "end of epoch": AT_ITS_END, "third step of epoch": WITHIN}


class Copies(Callback):
    """Copies of the checkpoint as a kill after each step would leave it."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, *_):
        if (self.folder / "last.ckpt").exists():
            shutil.copy(self.folder / "last.ckpt", self.folder / f"after_{trainer.global_step}.ckpt")


def same(one, two):
    one, two = contents(one), contents(two)
    assert one.keys() == two.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, two[name])]


@pytest.mark.slow
@pytest.mark.parametrize("validate", VALIDATED.values(), ids=VALIDATED)
def test_a_kill_at_any_step_loses_nothing(tmp_path, validate):
    whole = train(tmp_path, Copies(tmp_path), every=1, **validate)
    assert len([kind for _, kind in whole if kind == "val"]) == (3 if validate is MID_EPOCH else 2)
    for step in range(1, STEPS):
        resumed = tmp_path / str(step)
        rest = train(resumed, resume=tmp_path / f"after_{step}.ckpt", **validate)
        same(tmp_path / "last.ckpt", resumed / "last.ckpt")
        start = whole.index((step - 1, "train")) + 1  # with the validation that was due then
        assert rest == whole[start:], step


@pytest.mark.slow
@pytest.mark.parametrize("validate", VALIDATED.values(), ids=VALIDATED)
@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end"])
def test_a_signal_after_every_step_loses_nothing(tmp_path, validate, hook):
    whole = train(tmp_path / "whole", **validate)
    last, seen = tmp_path / "last.ckpt", []
    for life in range(2 * STEPS):  # every second one is not disturbed before its first validation or second step
        record, step = Record(), torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
        try:
            train(tmp_path, Signal(hook, step + life % 2), record=record, resume=last if step else None, **validate)
        except Stopped as stop:
            assert stop.code == 128 + signal.SIGTERM
        else:
            break
        finally:
            seen += record.seen
    same(tmp_path / "whole" / "last.ckpt", last)
    assert sorted(set(seen)) == sorted(whole)
    assert len(seen) <= len(whole) + 3  # validations, where training had come to its end
