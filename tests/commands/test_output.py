"""What commands print for people and for programs, how quiet they can be, and their exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ctsr_lightning.cli import CLOSED, COMMANDS, main
from ctsr_lightning.commands.output import Manner, note, printing, result, tell
from ctsr_lightning.commands.parsers import load_command, printed
from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.progress import progress
from ctsr_lightning.training import INTERRUPTED

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photos, their ground truth, and something that is no photo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        gt = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator), scale_factor=16)[0]
        write_image(f"gt/{name}.png", gt)
        write_image(f"lq/{name}.png", torch.nn.functional.avg_pool2d(gt, 4))


def parsed(capsys: Captured, *words: str) -> dict[str, Any]:
    """The JSON object that is all of standard output."""
    main([*words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_command_prints_both_ways() -> None:
    assert all(printed(load_command(place)) == {"quiet", "json"} for place in COMMANDS.values())


def test_upscale(stage2: str, capsys: Captured) -> None:
    Path("lq/broken.png").write_bytes(b"none")
    words = ["upscale", "lq", "out", "--checkpoint", stage2, "--control", "0,1", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["restored"], found["there"], found["failed"]) == (2, 0, 1)
    assert found["files"] == [f"out/{name}_t{t}.png" for name in "ab" for t in ("0.00", "1.00")]
    assert found["control"] == [0.0, 1.0]
    assert "broken.png" in err


def test_evaluate_and_sweep(stage2: str, capsys: Captured) -> None:
    for name in "ab":
        write_image(f"restored/{name}.png", 0.9 * read_image(f"gt/{name}.png"))
    found = parsed(capsys, "evaluate", "restored", "gt", "--metrics", "psnr", "--output", "measured")
    assert found == json.loads(Path("measured/summary.json").read_text()) | {"output": "measured", "complete": True}
    words = ["--gt", "gt", "--lq", "lq", "--control", "0,1", "--baselines", "none", "--examples", "0"]
    found = parsed(capsys, "sweep", "--checkpoint", stage2, *words, "--device", "cpu", "--output", "swept")
    assert found == json.loads(Path("swept/tradeoff.json").read_text()) | {"output": "swept", "complete": True}
    part = ["--rank", "0", "--ranks", "2"]
    found = parsed(capsys, "evaluate", "restored", "gt", "--metrics", "psnr", "--output", "parts", *part)
    assert found == {"output": "parts", "complete": False}


def test_benchmark_export_and_configs(stage2: str, capsys: Captured) -> None:
    sizes = ["--size", "8", "--warmup", "0", "--repeats", "1", "--device", "cpu"]
    found = parsed(capsys, "benchmark", "--checkpoint", stage2, *sizes)
    assert found["input"] == [1, 3, 8, 8]
    assert {part["part"] for part in found["parts"]} >= {"decode", "whole, 1 value of t"}
    found = parsed(capsys, "export", "exported", "--checkpoint", stage2, "--format", "safetensors")
    assert found["difference"] < 1e-5
    assert found["bytes"]["weights.safetensors"] == Path("exported/weights.safetensors").stat().st_size
    assert "nano/stage2.yaml" in parsed(capsys, "configs")["configs"]
    assert parsed(capsys, "configs", "copied")["files"] == len(list(Path("copied").rglob("*.yaml")))


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet(option: str, stage2: str, capsys: Captured) -> None:
    words = ["upscale", "lq", "out", option, "--checkpoint", stage2, "--device", "cpu"]
    main(words)
    assert capsys.readouterr() == ("", "")
    assert Path("out/a.png").is_file()
    Path("lq/broken.png").write_bytes(b"none")
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ctsr: skipped: ")
    assert "broken.png" in err


def test_the_estimate_and_the_page_of_a_large_photo_are_not_said_quietly(stage2: str, capsys: Captured) -> None:
    Image.new("RGB", (64, 48), "grey").save("large.png")
    words = ["upscale", "large.png", "out", "--checkpoint", stage2, "--device", "cpu", "--tile", "32", "--page"]
    main([*words, "--overwrite"])
    said = capsys.readouterr().err
    assert all(part in said for part in ("for the first tile", "its page is"))
    main([*words, "--overwrite", "-q"])
    assert capsys.readouterr() == ("", "")


def test_what_is_printed_where(capsys: Captured) -> None:
    def print_all() -> tuple[str, str]:
        tell("text")
        note("remark")
        result(path=Path("a"), number=1.5)
        with progress() as bar:
            list(bar.track(range(2), description="working"))
        return tuple(capsys.readouterr())

    assert print_all()[0] == "text\n"
    with printing(Manner(as_json=True)):
        out, err = print_all()
    assert json.loads(out) == {"path": "a", "number": 1.5}
    assert err.splitlines()[0] == "remark"
    assert "working 2/2" in err
    with printing(Manner(quiet=True)):
        assert print_all() == ("", "")
    with printing(Manner(quiet=True, as_json=True)):
        out, err = print_all()
    assert (json.loads(out)["number"], err) == (1.5, "")
    with printing(Manner(as_json=True)), pytest.raises(TypeError, match="found object"):
        result(thing=object())


def test_exit_codes(stage2: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page `Use` has them: 0 is no SystemExit, the rest is here and, of signals, in the tests of trainings."""

    def code(*words: str) -> object:
        with pytest.raises(SystemExit) as end:
            main(list(words))
        capsys.readouterr()
        return end.value.code

    assert code("upscale", "-h") == code("configs", "--help") == 0
    assert code("upscale", "missing.png", "out") == 1
    assert code("upscale", "lq", "out", "--tile", "wide") == 2
    assert code("upscale", "lq", "out", "--nonsense", "1") == 2
    assert code("nonsense") == 2

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctsr_lightning.commands.upscale.plan", interrupt)
    assert code("upscale", "lq", "out", "--checkpoint", stage2) == INTERRUPTED == 130


@pytest.mark.processes
def test_a_pipe_that_is_closed_early_is_no_traceback() -> None:
    command = [sys.executable, "-c", "from ctsr_lightning.cli import main; main(['configs'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == CLOSED


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: Captured) -> None:
    pytest.importorskip("shtab")
    main(["--print-completion", shell])
    script = capsys.readouterr().out
    for word in (*COMMANDS, "fit", "--checkpoint", "--crop-border", "float16", "safetensors", "--ckpt_path", "--quiet"):
        assert word.lstrip("-") in script, word
    if program := shutil.which(shell):
        Path("script").write_text(script)
        assert subprocess.run([program, "-n", "script"], check=False).returncode == 0


def test_bash_completes(capsys: Captured) -> None:
    pytest.importorskip("shtab")
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash")
    main(["--print-completion", "bash"])
    Path("script").write_text(capsys.readouterr().out)

    def words(*typed: str) -> set[str]:
        setting = f"COMP_WORDS=({' '.join(typed)} ''); COMP_CWORD={len(typed)}" if typed[-1] != "--" else ""
        setting = setting or f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}"
        text = f"source ./script; {setting}; _shtab_ctsr; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run([bash, "-c", text], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert {"upscale", "export", "fit"} <= words("ctsr")
    assert words("ctsr", "export", "--format") == {"folder", "safetensors", "osediff", "onnx", "torch"}
    assert {"--checkpoint", "--quiet", "--json", "--restored-suffix"} <= words("ctsr", "evaluate", "--")


def test_completion_of_no_shell(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--print-completion"], ["--print-completion", "fish"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 1
        assert "one of bash, zsh, tcsh" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    assert "pip install 'ctsr-lightning[completion]'" in capsys.readouterr().err
