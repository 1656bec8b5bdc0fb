"""A small training that is stopped at will and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, Dataset

from ctsr_lightning.batch import Batch
from ctsr_lightning.callbacks import EMA, LastCheckpoint
from ctsr_lightning.callbacks.distributed import lost_processes
from ctsr_lightning.data.datamodule import CountTrained
from ctsr_lightning.data.samplers import EvaluationSampler, ResumableLoader, TrainingSampler
from ctsr_lightning.modules import PriorTraining
from ctsr_lightning.modules.lr_schedule import WarmupCosine
from helpers import tiny

STEPS, EPOCH = 9, 4
MID_EPOCH = {"check_val_every_n_epoch": None, "val_check_interval": 3}
AT_ITS_END = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}
WITHIN = {"check_val_every_n_epoch": 1, "val_check_interval": 3}


class Drawn(Dataset[Batch]):
    """Toy pairs by the draws of a training sampler, or by number."""

    def __init__(self, count: int) -> None:
        self.pairs = tiny.ToyPairs(count, side=16)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Any) -> Batch:
        return self.pairs[getattr(draw, "image", draw)]


class Stream(LightningDataModule):
    """Epochs of four batches, and some images to validate on."""

    scale = 4

    def __init__(self, batch_size: int = 2, images: int = 3) -> None:
        super().__init__()
        self.batch_size, self.images = batch_size, images

    @property
    def process(self) -> dict[str, int]:
        """Which process this is."""
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def train_dataloader(self) -> ResumableLoader:
        """A loader as the package's data module has it."""
        sampler = TrainingSampler(8, EPOCH * 2, **self.process)
        loader = ResumableLoader(Drawn(8), batch_size=self.batch_size, sampler=sampler)
        loader.trained = 0
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        """Images one by one."""
        return DataLoader(Drawn(self.images), sampler=EvaluationSampler(self.images, **self.process))

    test_dataloader = val_dataloader


class Record(Logger):
    """What was logged, in order: the step and whether it was of training or validation."""

    name, version = "record", 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, str]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Remember."""
        kinds = {name.split("/")[0] for name in metrics} & {"train", "val"}
        self.seen += [(step or 0, kind) for kind in sorted(kinds)]


class Signal(Callback):
    """Sends this process a signal at one place of the training.

    Args:
        hook: The callback's hook.
        step: The first optimizer step at which it is sent.
        number: The signal.
    """

    def __init__(self, hook: str, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number, self.sent = step, number, False
        setattr(self, hook, self.send)

    def send(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Send it once."""
        if not self.sent and trainer.global_step >= self.step and not trainer.sanity_checking:
            self.sent = True
            os.kill(os.getpid(), self.number)


def module(lr: float = 1e-3, total: int = STEPS) -> PriorTraining:
    """A training that draws noise, follows a schedule, and measures its losses in validation."""
    return PriorTraining(
        tiny.student(),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=lr),
        scheduler=lambda optimizer: WarmupCosine(optimizer, total_steps=total, warmup_steps=2),
    )


def train(
    folder: Path, *callbacks: Callback, every: int = 100, resume: Path | None = None, **options: Any
) -> list[tuple[int, str]]:
    """Train or go on; what was logged, which a `record` of one's own keeps if the training is stopped."""
    record = options.pop("record", None) or Record()
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": record,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **MID_EPOCH,
    }
    last = LastCheckpoint(every, folder=folder)
    data = options.pop("data", None) or Stream()
    trained = options.pop("model", None) or module()
    trainer = Trainer(callbacks=[CountTrained(), *callbacks, EMA(), last], **{**settings, **options})
    trainer.fit(trained, data, ckpt_path=resume)
    return record.seen


def contents(file: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint that a training goes on from, by name."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}/{key}")
        elif isinstance(value, list | tuple):
            for key, item in enumerate(value):
                walk(item, f"{name}/{key}")
        elif isinstance(value, int | float):
            found[name] = torch.tensor(float(value), dtype=torch.float64)

    checkpoint = torch.load(file, weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch"):
        walk(checkpoint[part], part)
    return found


class Death(Callback):
    """Ends this process without a word after a step, as a kill does."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End at the second step."""
        if trainer.global_step == 2:
            os._exit(0)


def together(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """One of several processes: validations of any number of images, a signal to one, and the death of one."""
    ddp: dict[str, Any] = {"devices": world_size, "use_distributed_sampler": False, "max_steps": 3}
    ddp["strategy"] = "ddp" if world_size > 1 else "auto"
    found: dict[str, Any] = {}
    for images in (1, 3, 4):
        watch = Watch()
        data = Stream(4 // world_size, images)
        train(Path(folder) / f"{images}_{world_size}", watch, model=module(lr=0.0).double(), data=data,
              precision="64-true", **ddp)  # fmt: skip
        found[str(images)] = watch.seen
    if world_size > 1:
        watch = Watch()
        signals = [Signal("on_train_batch_end", 1, signal.SIGUSR1)] if rank == 1 else []
        try:
            train(Path(folder) / "signal", watch, *signals, data=Stream(4 // world_size), **ddp)
        except SystemExit as stop:
            found["stopped"] = [stop.code, watch.step]
        try:
            train(Path(folder) / "death", watch, *([Death()] if rank == 1 else []), data=Stream(1), **ddp)
        except RuntimeError as error:
            assert watch.trainer is not None
            found["lost"] = lost_processes(watch.trainer, error)
    return found


class Watch(Callback):
    """What a validation has measured, and where the training stood last."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.step = 0
        self.trainer: Trainer | None = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Remember the step."""
        self.trainer, self.step = trainer, trainer.global_step

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Remember the values."""
        self.seen = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
