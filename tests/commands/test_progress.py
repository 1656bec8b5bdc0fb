"""Progress in a log: plain lines now and then; on a terminal the bar alone."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from ctsr_lightning.progress import PlainProgress, progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(seconds: float, total: int, *, known: bool = True) -> list[str]:
    """What is written while `total` things are done that take `seconds` each."""
    file, clock = io.StringIO(), Clock()
    with PlainProgress(Console(file=file), get_time=clock) as bar:
        task = bar.add_task("measuring", total=total if known else None)
        for _ in range(total):
            clock.now += seconds
            bar.advance(task)
    return file.getvalue().splitlines()


def test_a_line_after_each_tenth() -> None:
    found = lines(1.0, 100)
    assert len(found) == 10
    assert found[0] == "measuring 10/100, 1.00 s each, 1:30 left"
    assert found[-1] == "measuring 100/100, 1.00 s each"


def test_slow_work_speaks_every_half_minute_and_fast_work_once() -> None:
    slow = lines(20.0, 100)
    assert slow[0] == "measuring 2/100, 20.00 s each, 32:40 left"
    assert len(slow) == 50
    assert lines(400.0, 20)[0] == "measuring 1/20, 400.00 s each, 2:06:40 left"
    assert lines(0.01, 200) == ["measuring 200/200, 0.01 s each"]


def test_work_of_unknown_length() -> None:
    assert lines(31.0, 2, known=False) == ["measuring 1, 31.00 s each", "measuring 2, 31.00 s each"]


def test_redirected_standard_error_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        assert list(bar.track(range(3), description="restoring")) == [0, 1, 2]
        bar.console.print("skipped: one")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("restoring 3/3, 0.00 s each")
    assert second == "skipped: one"


def test_a_terminal_gets_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as bar:
        assert not isinstance(bar, PlainProgress)
        list(bar.track(range(3), description="restoring"))
    assert "s each" not in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
