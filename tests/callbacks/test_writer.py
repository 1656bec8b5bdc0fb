"""What a run leaves on disk, and when it does not."""

import contextlib
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from safetensors import safe_open

import ctsr_lightning
from ctsr_lightning.callbacks import EMA, Evaluation, PredictionWriter, WeightsWriter
from ctsr_lightning.callbacks.writer import inside
from ctsr_lightning.images import quantize, read_image
from helpers.evaluation_dummies import Blend, PhotoData, Photos


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_label_goes_straight_to_the_folder(make_trainer, tmp_path) -> None:
    model = Blend()
    trainer = make_trainer(callbacks=[PredictionWriter(tmp_path / "out")], logger=False)
    trainer.predict(model, PhotoData(count=3), return_predictions=False)
    assert files(tmp_path / "out") == ["folder0/photo0.png", "folder0/photo2.png", "folder1/photo1.png"]
    expected = quantize(model.restore(Photos(3)[1][0][None])[0].detach())
    assert torch.equal(read_image(tmp_path / "out" / "folder1" / "photo1.png"), expected)


def test_several_labels_get_a_folder_each(make_trainer, tmp_path) -> None:
    trainer = make_trainer(callbacks=[PredictionWriter()])
    trainer.predict(Blend(controllable=True), PhotoData(count=1), return_predictions=False)
    assert files(tmp_path / "run" / "restored") == ["t=0.00/folder0/photo0.png", "t=1.00/folder0/photo0.png"]


def test_bad_predictions_are_refused(make_trainer, tmp_path) -> None:
    class Bare(Blend):
        def predict_step(self, batch, batch_idx):
            return self.restore(batch.lq)

    class Broken(Blend):
        def predict_step(self, batch, batch_idx):
            return {"restored": self.restore(batch.lq) * torch.nan}

    for model, message in ((Bare(), "by label"), (Broken(), "photo0")):
        trainer = make_trainer(callbacks=[PredictionWriter(tmp_path)], logger=False)
        with pytest.raises(ValueError, match=message):
            trainer.predict(model, PhotoData(count=1), return_predictions=False)


def test_keys_stay_inside(tmp_path) -> None:
    assert inside(tmp_path, "a/b.c") == tmp_path / "a" / "b.c.png"
    with pytest.raises(ValueError, match="stays inside"):
        inside(tmp_path, "../a")


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("end", [{"max_epochs": 2}, {"max_steps": 3, "max_epochs": -1}])
def test_weights_at_the_end(make_trainer, tmp_path, end) -> None:
    model = Blend()
    trainer = make_trainer(callbacks=[WeightsWriter()], **end)
    trainer.fit(model, PhotoData())
    state, metadata = read(tmp_path / "run" / "weights.safetensors")
    assert state.keys() == {"gain"}
    assert torch.equal(state["gain"], model.gain)
    assert metadata["module"] == "helpers.evaluation_dummies.Blend"
    assert metadata["ctsr_lightning"] == ctsr_lightning.__version__
    assert metadata["steps"] == str(trainer.global_step)
    assert list((tmp_path / "run").glob(".*")) == []


def test_averages_are_written_where_there_are_some(make_trainer, tmp_path) -> None:
    model, ema = Blend(), EMA()
    make_trainer(callbacks=[WeightsWriter(), ema]).fit(model, PhotoData())
    state, metadata = read(tmp_path / "run" / "weights.safetensors")
    assert torch.equal(state["gain"], ema.averages["gain"])
    assert not torch.equal(state["gain"], model.gain)
    assert metadata["ema_decay"] == "0.999"


def test_early_stopping_is_an_end(make_trainer, tmp_path) -> None:
    stopping = EarlyStopping("val/psnr_y", patience=1, mode="min", strict=False)
    trainer = make_trainer(callbacks=[WeightsWriter(), stopping, Evaluation()], max_epochs=50)
    trainer.fit(Blend(), PhotoData())
    assert trainer.current_epoch < 50
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.parametrize("how", ["stop", "error", "interrupt", "fast_dev_run"])
def test_no_weights_from_an_unfinished_training(make_trainer, tmp_path, how: str) -> None:
    class Break(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            if how == "stop":
                trainer.should_stop = True
            if how in {"error", "interrupt"}:
                raise {"error": RuntimeError, "interrupt": KeyboardInterrupt}[how]

    trainer = make_trainer(callbacks=[WeightsWriter(), Break()], max_epochs=2, fast_dev_run=how == "fast_dev_run")
    with contextlib.suppress(RuntimeError, SystemExit):
        trainer.fit(Blend(), PhotoData())
    assert list(tmp_path.rglob("weights.safetensors")) == []
