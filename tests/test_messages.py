"""What is wrong with settings and files is one message without a traceback, on any terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper

from ctsr_lightning.cli import main, report_errors, user_error
from ctsr_lightning.images import read_image


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command line that is refused; a traceback would be an exception here."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_any_text_can_be_written_to_any_stream(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    report_errors(lambda: print("a → b \udce9"))
    report_errors(lambda: print("a → b \udce9", file=sys.stderr))
    for stream in streams.values():
        stream.flush()
        written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert written == ("a → b \\udce9\n" if encoding == "utf-8" else "a \\u2192 b \\udce9\n")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["sweep", "--gt", ""], "--gt"),
        (["sweep", "--output="], "--output"),
        (["evaluate", "", "gt"], "RESTORED"),
        (["evaluate", "restored", "gt", "--checkpoint", ""], "--checkpoint"),
        (["upscale", "", "out"], "PATHS"),
    ],
)
def test_the_empty_text_is_no_value(capsys: pytest.CaptureFixture[str], words: list[str], option: str) -> None:
    assert f"Expected a value for {option}, found an empty text" in refused(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed_everything", "-5"], "-5 is not in bounds"),
        (["--seed_everything", str(10**30)], "is not in bounds"),
        (["--trainer.accelerator", "abacus"], "accelerator='abacus'"),
        (["--trainer.accelerator", "cpu", "--trainer.devices", "cuda:7"], "int > 0"),
        (["--data.train", ""], "Expected a path, found ''"),
    ],
)
def test_wrong_settings_of_a_training(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refused(capsys, "fit", "--config", "nano/codec.yaml", *words)


def test_configurations_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unset = tmp_path / "unset.yaml"
    unset.write_text('data: {init_args: {train: ["${oc.env:CTSR_NO_SUCH_VARIABLE}"]}}\n')
    error = refused(capsys, "fit", "--config", "nano/codec.yaml", "--config", str(unset))
    assert f"Expected a value for what '{unset}' names at data.init_args.train[0]" in error
    assert "${oc.env:CTSR_NO_SUCH_VARIABLE,default}" in error
    tab = tmp_path / "tab.yaml"
    tab.write_text("model:\n\tclass_path: CodecTraining\n")
    assert f"YAML in '{tab}', found wrong syntax: while scanning" in refused(capsys, "fit", "--config", str(tab))


@pytest.mark.parametrize("device", ["gpu9", "cuda:77", "abacus"])
def test_devices_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str) -> None:
    assert f"The device '{device}' cannot be used" in refused(
        capsys, "benchmark", "--device", device, "--checkpoint", "nano"
    )


def test_errors_in_processes_of_a_loader_are_told_like_others(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "missing.png", tmp_path / "text.png"):
        told = _in_worker(lambda path=path: read_image(path))
        assert str(path) in str(told)
        assert "Traceback" not in str(told)
    assert _in_worker(lambda: torch.zeros(2).view(3)) is None


def _in_worker(work: object) -> BaseException | None:
    """What the command line says of an error that a worker process hands on."""
    try:
        work()  # type: ignore[operator]
    except Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(Exception, match=r"Caught .* in DataLoader worker process 0") as caught:
        wrapped.reraise()
    return user_error(caught.value)


def test_machines_that_do_not_reach_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    def connect() -> None:
        raise RuntimeError("Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: Connection refused")

    with pytest.raises(SystemExit) as end:
        report_errors(connect)
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "export GLOO_SOCKET_IFNAME=eth0. (timed out connecting: Connection refused)" in error
    assert "Traceback" not in error
