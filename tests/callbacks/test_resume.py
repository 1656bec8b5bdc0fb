"""A training that is stopped or killed at any moment goes on bit for bit, and loses no validation."""

import copy
import json
import shutil
import signal

import pytest
import torch
from lightning import Callback

from ctsr_lightning.callbacks.resumed_settings import put_in_force
from ctsr_lightning.callbacks.stopping import Stopped
from helpers.processes import several_processes
from helpers.resumed_runs import (
    AT_ITS_END,
    MID_EPOCH,
    STEPS,
    WITHIN,
    Record,
    Signal,
    Stream,
    contents,
    module,
    together,
    train,
)

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
    last, seen, codes = tmp_path / "last.ckpt", [], []
    for life in range(2 * STEPS):  # every second one is not disturbed before its first validation or second step
        record, step = Record(), torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
        try:
            train(tmp_path, Signal(hook, step + life % 2), record=record, resume=last if step else None, **validate)
        except Stopped as stop:
            codes.append(stop.code)
        else:
            break
        finally:
            seen += record.seen
    assert set(codes) == {128 + signal.SIGTERM}
    same(tmp_path / "whole" / "last.ckpt", last)
    assert sorted(set(seen)) == sorted(whole)
    assert len(seen) <= len(whole) + 3  # validations, where training had come to its end


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_validate_as_one_stop_together_and_name_who_is_lost(tmp_path):
    several_processes(together, tmp_path, str(tmp_path))
    assert not (tmp_path / "1.json").exists()  # it died at last
    two, one = json.loads((tmp_path / "0.json").read_text()), together(0, 1, str(tmp_path))
    for images in ("1", "3", "4"):
        assert one[images].keys() == {"val/loss", "val/prior/denoise"}
        assert two[images] == pytest.approx(one[images], rel=1e-12)
    assert two["stopped"] == [128 + signal.SIGUSR1, 1]
    assert torch.load(tmp_path / "signal" / "last.ckpt", weights_only=True)["global_step"] == 1
    assert "but process 1 of 2 has ended or hangs (seen by process 0 at step" in two["lost"]


def test_another_size_of_batches_is_refused(tmp_path):
    train(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"batches of 2 samples .* found 4"):
        train(tmp_path, resume=tmp_path / "last.ckpt", data=Stream(4))


@pytest.mark.parametrize("lr", [1e-3, 3e-3])
def test_configured_rates_and_lengths_replace_those_of_the_checkpoint(tmp_path, lr):
    train(tmp_path, max_steps=4)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    before = copy.deepcopy(checkpoint["optimizer_states"][0]["param_groups"])
    fresh = module(lr=lr, total=20)
    optimizer = fresh.make_optimizer(fresh.parameter_groups())
    schedule = fresh.make_scheduler(optimizer)
    notes = put_in_force(checkpoint, [optimizer], [schedule])
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(lr * schedule.factor(4))
    assert schedule.total_steps == 20
    assert notes == ["learning rate 0.003 for 0.001"] * (lr > 1e-3) + ["total_steps 20 for 9"]
    same = torch.load(tmp_path / "last.ckpt", weights_only=True)
    fresh = module()
    optimizer = fresh.make_optimizer(fresh.parameter_groups())
    assert put_in_force(same, [optimizer], [fresh.make_scheduler(optimizer)]) == []
    assert same["optimizer_states"][0]["param_groups"] == before
    other = torch.optim.SGD(fresh.parameter_groups(), lr=0.1)
    with pytest.raises(ValueError, match="found SGD"):
        put_in_force(same, [other], [fresh.make_scheduler(other)])
