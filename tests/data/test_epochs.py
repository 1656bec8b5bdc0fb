"""Epochs of whole optimizer steps, and an index that one process writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

from ctsr_lightning.data import PhotoFolder, RealESRGANDataModule
from ctsr_lightning.images import index as index_module

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ctsr"


class Steps(LightningModule):
    """Counts the images of every optimizer step, and where it is validated."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.keys: list[str] = []
        self.sizes: list[int] = []
        self.validated: list[int] = []
        self.stop_at = stop_at
        self._batches = 0

    def training_step(self, batch, batch_idx):
        self.keys += batch.key
        self._batches += 1
        return self.weight * batch.gt.mean()

    def on_before_optimizer_step(self, optimizer) -> None:
        self.sizes.append(self._batches)
        self._batches = 0

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        if self.stop_at == self.trainer.global_step:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/last.ckpt")
            self.trainer.should_stop = True

    def validation_step(self, batch, batch_idx) -> None:
        """Needed for Lightning to validate."""

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: object) -> Trainer:
    """A trainer that accumulates three batches and validates after every two steps."""
    settings = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": 5,
        "enable_progress_bar": False, "enable_model_summary": False, "accumulate_grad_batches": 3,
        "check_val_every_n_epoch": None, "val_check_interval": 6, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(default_root_dir=folder, **{**settings, **options})


def data(photos: Path, **options: object) -> RealESRGANDataModule:
    """Epochs of ten samples, which are rounded up to two steps of six."""
    sources = [PhotoFolder(photos, include="0*"), PhotoFolder(photos, include="sub/*", weight=5.0)]
    settings = {"crop": 32, "val_crop": 32, "val_split": 1, "batch_size": 2, "samples_per_epoch": 10, "num_workers": 0}
    return RealESRGANDataModule(train=sources, **{**settings, **options})


def test_steps_are_whole_and_validations_come_by_step(photos, tmp_path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("ctsr_lightning.data.datamodule.rank_zero_info", said.append)
    model, module = Steps(), data(photos)
    trainer(tmp_path).fit(model, module)
    assert model.sizes == [3] * 5
    assert model.validated == [2, 4]
    assert len(module.train_dataloader()) == 6
    assert any("An epoch is 12 training samples in place of 10: whole optimizer steps of 6" in line for line in said)


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_resumed_run_takes_the_same_steps(photos, tmp_path, stop_at) -> None:
    whole, first, rest = Steps(), Steps(stop_at), Steps()
    trainer(tmp_path).fit(whole, data(photos))
    trainer(tmp_path).fit(first, data(photos))
    trainer(tmp_path).fit(rest, data(photos), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first.keys + rest.keys == whole.keys
    assert first.sizes + rest.sizes == whole.sizes
    assert [step for step in rest.validated if step > stop_at] == [s for s in whole.validated if s > stop_at]


def test_one_process_reads_the_headers_for_all(photos, tmp_path, monkeypatch) -> None:
    read: list[Path] = []
    true = index_module.header
    monkeypatch.setattr(index_module, "header", lambda path: read.append(path) or true(path))
    keys = {}
    for rank in range(2):
        module = data(photos, index=tmp_path / "index")
        state = SimpleNamespace(fn="fit")
        module.trainer = SimpleNamespace(
            state=state, local_rank=rank, global_rank=rank, world_size=2, accumulate_grad_batches=1, callbacks=[]
        )
        if rank == 0:
            module.prepare_data()
            assert len(read) == 12
        module.setup("fit")
        keys[rank] = [list(part.keys) for part in module._datasets["train"].parts]
    assert len(read) == 12
    assert keys[0] == keys[1]


def test_preparing_is_left_alone_without_an_index_or_a_training(photos, tmp_path) -> None:
    for options, stage in (({}, "fit"), ({"index": tmp_path / "index"}, "test")):
        module = data(photos, **options)
        module.trainer = SimpleNamespace(state=SimpleNamespace(fn=stage))
        module.prepare_data()
        assert not module._splits._found
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("name", ["fidelity_teacher", "realness_teacher", "stage1", "stage2"])
def test_full_size_trainings_validate_between_whole_steps(name) -> None:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["trainer"]
    steps = settings.get("accumulate_grad_batches", 1)
    assert settings["check_val_every_n_epoch"] is None
    assert settings["val_check_interval"] % steps == 0
    assert 10 <= settings["max_steps"] * steps / settings["val_check_interval"] <= 120
