"""Steps whose loss or gradient is not finite are left out, named and counted; too many end the training."""

import math

import pytest
import torch
from lightning import Callback
from torch import nn

from ctsr_lightning.callbacks import LastCheckpoint
from ctsr_lightning.callbacks.writer import save_weights
from ctsr_lightning.modules import TrainingModule
from ctsr_lightning.modules.finite_steps import LOG
from helpers import tiny


class Breaking(TrainingModule):
    """Follows 2 w, and breaks in chosen batches: in the loss, or in the gradient alone."""

    def __init__(self, loss: tuple[int, ...] = (), gradient: tuple[int, ...] = (), **options):
        super().__init__(optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1), **options)
        self.w = nn.Parameter(torch.tensor([3.0]))
        self.in_loss, self.in_gradient, self.batches = loss, gradient, 0

    def losses(self, batch):
        del batch
        number, self.batches = self.batches, self.batches + 1
        loss = 2.0 * self.w.sum()
        if number in self.in_loss:
            loss = loss * math.inf
        if number in self.in_gradient:
            loss = loss + (self.w - self.w.detach()).abs().sqrt().sum()  # sqrt'(0) is infinite, times sign(0) is NaN
        return {"fine": self.w.square().sum(), "bad": loss}


class Watch(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append(pl_module.w.item())


@pytest.fixture
def notes(monkeypatch):
    """What is said of skipped steps."""
    said = []
    monkeypatch.setattr(LOG, "warning", said.append)
    return said


def path_of(module, steps, **options):
    """The weight after each step."""
    watch = Watch()
    tiny.fit(module, max_steps=steps, callbacks=[watch], **options)
    return watch.seen


@pytest.mark.parametrize("broken", [{"loss": (1,)}, {"gradient": (1,)}], ids=["loss", "gradient"])
def test_a_broken_step_changes_nothing_and_is_named(broken, notes):
    module = Breaking(**broken)
    path = path_of(module, 4)
    assert path[1] == path[0] > path[2] > path[3]
    assert module.finite_steps.skipped == 1
    (note,) = notes
    assert note.startswith("Step 1 is skipped: the " + ("loss (bad)" if "loss" in broken else "gradient"))
    assert "on '2', '3'. 1 skipped so far." in note


def test_accumulated_batches_are_left_out_together(notes):
    path = path_of(Breaking(loss=(2,)), 3, accumulate_grad_batches=2)
    assert path[1] == path[2] == path[3] > path[5]  # the second step is made of batches 2 and 3
    assert "on '4', '5'." in notes[0]


def test_too_many_in_a_row_end_the_training_and_leave_the_checkpoint_from_before(tmp_path, notes):
    module = Breaking(loss=(1, 3, 4, 5), max_skipped_steps=3)
    last = LastCheckpoint(1, tmp_path)
    with pytest.raises(ValueError, match=r"3 steps in a row .* at step 6.*Lower the learning rate"):
        tiny.fit(module, max_steps=20, max_epochs=9, callbacks=[last], enable_checkpointing=True)
    assert len(notes) == 4
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["state_dict"]["w"].item() == module.w.item() < 3.0
    assert kept["global_step"] == 3  # the next one was the first to be skipped


def test_a_limit_of_none_in_a_row_is_refused():
    with pytest.raises(ValueError, match="Expected max_skipped_steps of at least 1, found 0"):
        Breaking(max_skipped_steps=0)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    module = Breaking()
    module.w.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"found NaN or infinity in 1 of 1 \(first: 'w'\)"):
        save_weights(tmp_path / "weights.safetensors", module, steps=1)
    assert not list(tmp_path.iterdir())
