"""Progress of a training in a log: lines without control characters, counted from where it began."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ctsr_lightning.callbacks.progress_lines import ProgressLines, use_plain_lines

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Line(LightningModule):
    """Fits a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def data() -> DataLoader[Tensor]:
    return DataLoader(torch.ones(8, 1), batch_size=1)  # type: ignore[arg-type]


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = use_plain_lines(Trainer(max_steps=6, **QUIET))
    assert [type(c) for c in trainer.callbacks if isinstance(c, (ProgressLines, RichProgressBar, TQDMProgressBar))] == [
        ProgressLines
    ]
    trainer.fit(Line(), data())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training")]
    assert len(lines) == 1
    assert lines[0].startswith("training 6/6, 0.0")
    assert not any(ord(character) < 32 for line in lines for character in line)


@pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before")
def test_steps_that_were_accumulated_and_resumed(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    trainer = use_plain_lines(Trainer(max_steps=2, accumulate_grad_batches=2, **QUIET))
    trainer.fit(Line(), data())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert "training 2/2" in capsys.readouterr().err
    trainer = use_plain_lines(Trainer(max_steps=5, **QUIET))
    trainer.fit(Line(), data(), ckpt_path=tmp_path / "two.ckpt")
    assert "training from step 2 3/3, " in capsys.readouterr().err


def test_a_terminal_and_what_was_chosen_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(TQDMProgressBar):
        """A bar of one's own."""

    trainer = use_plain_lines(Trainer(callbacks=[Own()], **QUIET))
    assert any(type(callback) is Own for callback in trainer.callbacks)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    trainer = use_plain_lines(Trainer(**QUIET))
    assert not any(isinstance(callback, ProgressLines) for callback in trainer.callbacks)
    assert use_plain_lines(Trainer(enable_progress_bar=False, **QUIET)).progress_bar_callback is None


def test_a_notebook_keeps_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipykernel  # noqa: F401 # as in a process that starts kernels, which is none
    import IPython

    def bars() -> list[type]:
        return [type(callback) for callback in use_plain_lines(Trainer(**QUIET)).callbacks]

    assert ProgressLines in bars()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert ProgressLines not in bars()


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = use_plain_lines(Trainer(max_steps=2, **QUIET))
    bar = next(callback for callback in trainer.callbacks if isinstance(callback, ProgressLines))
    bar.disable()
    trainer.fit(Line(), data())
    assert "training 2/2" not in capsys.readouterr().err
    bar.enable()
