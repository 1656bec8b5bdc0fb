"""last.ckpt is of the last step, whole, and there."""

from pathlib import Path

import pytest
import torch
from lightning import Callback

from ctsr_lightning.callbacks import LastCheckpoint
from ctsr_lightning.modules import CTSRStage1
from helpers import tiny


def stage_one():
    return CTSRStage1(tiny.student(), tiny.fidelity_teacher(), tiny.realness_teacher(), tiny.reconstruction())


@pytest.mark.slow
def test_the_last_checkpoint_is_of_the_last_step(tmp_path):
    callback = LastCheckpoint(every_n_train_steps=2, folder=tmp_path)
    tiny.fit(stage_one(), max_steps=3, callbacks=[callback], enable_checkpointing=True, default_root_dir=tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert callback.last_model_path == str(tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.rglob("*last*")] == ["last.ckpt"]


class Interruption(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            raise RuntimeError("lightning struck")


def test_a_failed_training_leaves_its_last_step(tmp_path):
    callbacks = [LastCheckpoint(every_n_train_steps=2, folder=tmp_path), Interruption()]
    with pytest.raises(RuntimeError, match="struck"):
        tiny.fit(stage_one(), max_steps=5, callbacks=callbacks, enable_checkpointing=True, default_root_dir=tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.slow
def test_a_checkpoint_cut_short_leaves_the_one_before(tmp_path, monkeypatch):
    def cut(self, filepath, *_, **__):
        Path(filepath).write_bytes(b"cut short")
        raise OSError(28, "No space left on device")

    tiny.fit(stage_one(), max_steps=2, callbacks=[LastCheckpoint(folder=tmp_path)], enable_checkpointing=True)
    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", cut)
    with pytest.raises(OSError, match="No space left"):
        tiny.fit(stage_one(), max_steps=4, callbacks=[LastCheckpoint(folder=tmp_path)], enable_checkpointing=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_steps_between_checkpoints_are_positive():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        LastCheckpoint(0)
