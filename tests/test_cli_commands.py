"""Commands beside the training verbs: help, words and options."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from ctsr_lightning.cli import COMMANDS, command_parser, load_command, main
from ctsr_lightning.training import VERBS
from recipes.__main__ import RECIPES


@pytest.mark.processes
def test_help_is_cheap() -> None:
    """One interpreter for all, which none makes import what is heavy."""
    asked = [["--help"], ["--version"], [], *([name, word] for name in COMMANDS for word in ("--help", "-h"))]
    code = textwrap.dedent(f"""
        import contextlib, io, sys
        from ctsr_lightning.cli import main
        for words in {asked}:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                try:
                    main(words)
                except SystemExit as end:
                    assert end.code == 0, (words, end.code)
            heavy = sys.modules.keys() & {{"torch", "lightning", "diffusers", "numpy", "matplotlib", "PIL"}}
            assert not heavy, (words, heavy)
            assert "ctsr" in said.getvalue(), words
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_overview_names_every_verb_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in [*VERBS, *COMMANDS]:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.removeprefix(f"  {name}").strip().endswith(".")
    assert sum(line.startswith("  ctsr ") for line in lines) == 2


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["upscal"])
    assert end.value.code == 2
    assert "'upscal' is not a command. Expected one of fit, validate" in capsys.readouterr().err


def parser_of(place: str) -> ArgumentParser:
    return command_parser(load_command(place), "command")


def test_flags_need_no_value() -> None:
    parser = parser_of(COMMANDS["upscale"])
    assert parser.parse_args(["a", "b"]).overwrite is False
    assert parser.parse_args(["a", "b", "--overwrite"]).overwrite is True


def test_words_that_need_not_be_given() -> None:
    parser = parser_of(COMMANDS["evaluate"])
    assert (parser.parse_args([]).restored, parser.parse_args([]).gt) == (None, None)
    assert parser.parse_args(["--metrics", "psnr", "a", "b"]).gt == "b"
    assert parser_of(RECIPES["results"]).parse_args(["a", "b", "--output", "c.md"]).runs == ["a", "b"]


def test_options_may_have_hyphens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "a-b", "c-d", "--crop-border", "-3", "--skip-unavailable"])
    assert "--crop-border of at least 0 pixels, found -3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "a-b", "c-d", f"--output={tmp_path}/x-y"])
    assert "'c-d'" in capsys.readouterr().err


def test_command_options_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("overwrite: true\ntile: 64\n")
    options = parser_of(COMMANDS["upscale"]).parse_args(["--config", str(tmp_path / "options.yaml"), "a", "b"])
    assert (options.overwrite, options.tile) == (True, 64)
