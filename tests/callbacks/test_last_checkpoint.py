"""last.ckpt is of the last step, whole, and there."""

import pytest
import torch
from lightning import Callback, Trainer
from safetensors.torch import save_file

from ctsr_lightning.callbacks import LastCheckpoint
from ctsr_lightning.callbacks.checkpoint_files import CheckpointFiles
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
    assert torch.load(tmp_path / "previous.ckpt", weights_only=True)["global_step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


class Failure(Callback):
    def __init__(self, hook, step):
        self.step = step
        setattr(self, hook, self.fail)

    def fail(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("lightning struck")


@pytest.mark.parametrize(("hook", "step", "left"), [("on_train_batch_start", 3, 3), ("on_train_batch_end", 3, 2)])
def test_a_failed_training_leaves_its_last_whole_step(tmp_path, hook, step, left):
    """Within a step, weights, averages and counters may be of different steps."""
    callbacks = [LastCheckpoint(every_n_train_steps=2, folder=tmp_path), Failure(hook, step)]
    with pytest.raises(RuntimeError, match="struck"):
        tiny.fit(stage_one(), max_steps=5, callbacks=callbacks, enable_checkpointing=True, default_root_dir=tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == left


class Divergence(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == 3:
            next(p for p in module.parameters() if p.requires_grad).data.fill_(float("nan"))


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    callbacks = [Divergence(), LastCheckpoint(every_n_train_steps=1, folder=tmp_path)]
    with pytest.raises(ValueError, match="finite weights at step 3, found NaN or infinity in 1 of"):
        tiny.fit(stage_one(), max_steps=4, callbacks=callbacks, enable_checkpointing=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def files(state=None):
    """Checkpoints of a trainer that does nothing, and contents to write."""
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    state = {"a": torch.arange(50_000.0)} if state is None else state
    return CheckpointFiles(trainer), {"state_dict": state, "global_step": 1, "loops": {}}


@pytest.mark.parametrize("temporary", ["other", "full"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, temporary):
    """Also where temporary files lie on another file system, which Lightning's own way copies from."""
    saver, checkpoint = files()
    place = tmp_path / "last.ckpt"
    saver.save_checkpoint(checkpoint, place)
    before = place.read_bytes()
    monkeypatch.setenv("TMPDIR", "/dev/shm" if temporary == "other" else str(tmp_path))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.ckpt'"):
        saver.save_checkpoint({**checkpoint, "global_step": 2}, place)
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a page": lambda whole: b"<!DOCTYPE html><html>404</html>",
    "zeros inside": lambda whole: whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_named(tmp_path, damage):
    saver, checkpoint = files()
    place = tmp_path / "last.ckpt"
    saver.save_checkpoint(checkpoint, place)
    assert saver.load_checkpoint(place)["global_step"] == 1
    place.write_bytes(damage(place.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint.* at '.*last\.ckpt', but it cannot be read") as refused:
        saver.load_checkpoint(place)
    assert "weights_only" not in str(refused.value)
    (tmp_path / "previous.ckpt").touch()
    with pytest.raises(ValueError, match=r"The checkpoint before it is '.*previous\.ckpt'"):
        saver.load_checkpoint(place)


def test_files_of_other_kinds_are_refused(tmp_path):
    saver, checkpoint = files()
    save_file(checkpoint["state_dict"], tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="found weights alone"):
        saver.load_checkpoint(tmp_path / "weights.safetensors")
    saver.save_checkpoint(checkpoint, tmp_path / "weights.ckpt")
    saver._trainer.state.fn = "fit"
    with pytest.raises(ValueError, match="found one without callbacks, lr_schedulers, optimizer_states"):
        saver.load_checkpoint(tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="without running it"):
        saver.load_checkpoint(tmp_path / "weights.ckpt", weights_only=False)


def test_steps_between_checkpoints_are_positive():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        LastCheckpoint(0)
