"""Configurations that come with the package: found by name, listed, copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctsr_lightning.cli import main
from ctsr_lightning.configs import configs_folder, find_config, find_in_words


def test_a_file_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = configs_folder() / "nano" / "codec.yaml"
    assert find_config("nano/codec.yaml") == shipped
    assert "comes with ctsr_lightning" in capsys.readouterr().err
    assert find_config("configs/nano/codec.yaml") == shipped
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "codec.yaml").write_text("mine: 1")
    assert find_config("nano/codec.yaml") == Path("nano/codec.yaml")
    assert find_config("nano/nothing.yaml") == Path("nano/nothing.yaml")


def test_words_of_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = configs_folder() / "nano" / "codec.yaml"
    words = ["fit", "--config", "nano/codec.yaml", "--config=nano/codec.yaml", "--data.seed=1", "photo.jpg"]
    found = ["fit", "--config", str(shipped), f"--config={shipped}", "--data.seed=1", "photo.jpg"]
    assert find_in_words(words) == found


def test_they_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    listed = capsys.readouterr().out
    assert "nano/stage1.yaml" in listed
    assert "Stage 1" in listed
    main(["configs", str(tmp_path / "mine")])
    for file in configs_folder().rglob("*.yaml"):
        copy = tmp_path / "mine" / file.relative_to(configs_folder())
        assert copy.read_bytes() == file.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        main(["configs", str(tmp_path / "mine")])
    assert stopped.value.code == 1
    assert "Expected a new or empty folder" in capsys.readouterr().err
