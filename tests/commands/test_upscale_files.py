"""`ctsr upscale` loses no file, and passes no result off as another."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.commands.upscale import upscale
from ctsr_lightning.images import writing


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(path: str, width: int = 6, height: int = 5) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(sum(os.fsencode(path))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)


def files(folder: str) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def test_several_inputs_and_options_anywhere(stage2: str) -> None:
    for name in ("a.png", "b.jpg", "in/c.png", "in/d/a.png"):
        save(name)
    main(["upscale", "a.png", "--device", "cpu", "b.jpg", "in", "--overwrite", "out", f"--checkpoint={stage2}"])
    assert files("out") == ["a.png", "b.png", "c.png", "d/a.png"]
    main(["upscale", "--device", "cpu", "--checkpoint", stage2, "--", "a.png", "in/d/a.png", "a.png", "both"])
    assert files("both") == ["a_png.png", "a_png_.png"]  # one file named twice is one image


def test_bad_inputs_do_not_stop_the_others(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    save("in/a.png")
    save("in/z.png")
    Path("in/dangling.png").symlink_to("nothing.png")
    Path("in/folder.png").mkdir()
    long = "n" * 250 + ".png"
    save(f"in/{long}")
    words = ["in/dangling.png", "in/folder.png", "in/a.png", "missing.png", f"in/{long}", "x" * 300, "in/z.png", "out"]
    assert upscale(*words, checkpoint=stage2, control="0,0.125", device="cpu") == 1
    assert files("out") == ["a_t0.00.png", "a_t0.125.png", "z_t0.00.png", "z_t0.125.png"]
    told = capsys.readouterr()
    assert "5 failed, named above" in told.out
    for name in ("dangling.png", "folder.png", "missing.png", long, "x" * 300):
        assert sum(name in line for line in told.err.splitlines() if line.startswith("ctsr: ")) == 1
    assert upscale(f"in/{long}", "long", checkpoint=stage2, device="cpu") == 0
    assert files("long") == [long]


@pytest.mark.parametrize(("suffix", "width"), [("webp", 16383 // 4 + 1), ("jpg", 65500 // 4 + 1)])
def test_sizes_that_the_format_does_not_have(
    stage2: str, suffix, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    save("in/m.png", width, 1)
    save("in/z.png")
    assert upscale("in", "out", checkpoint=stage2, device="cpu", format=suffix) == 1
    assert files("out") == [f"z.{suffix}"]
    assert f"'in/m.png': Expected a result of at most {4 * width // 100}" in (err := capsys.readouterr().err)
    assert "Use --format png." in err


def test_a_full_disk_and_a_folder_that_vanishes(
    stage2: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        save(f"in/{name}.png")
    whole = writing.result_exif

    def full(*args: object) -> Image.Exif:
        calls.append(args)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        if len(calls) == 2:
            shutil.rmtree("out")
        return whole(*args)

    calls = []
    monkeypatch.setattr(writing, "result_exif", full)
    assert upscale("in", "out", checkpoint=stage2, device="cpu") == 1
    assert files("out") == ["c.png"]
    told = capsys.readouterr()
    assert "2 failed" in told.out
    assert "No space left on device: 'out/a.png'" in told.err
    assert "in/b.png" in told.err


def test_an_option_that_is_none_and_a_file_in_the_place_of_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png")
    Path("out").write_text("mine", encoding="utf-8")
    for words, said in (
        (["a.png", "out"], "Expected a folder to write to, found the file 'out'"),
        (["-o", "results"], "found nothing. An option? See --help"),
    ):
        with pytest.raises(SystemExit):
            main(["upscale", *words, "--device", "cpu"])
        assert said in capsys.readouterr().err
    assert Path("out").read_text(encoding="utf-8") == "mine"


def test_empty_words_are_no_paths(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png")
    for words in (["", "out"], ["a.png", ""], ["a.png"]):
        with pytest.raises(SystemExit):
            main(["upscale", *words])
        assert "empty" in (err := capsys.readouterr().err) or "Name the output last" in err
    assert files(".") == ["a.png"]


@pytest.mark.parametrize("name", ["out.gif", "out.heic", "out.ppm"])
def test_outputs_of_other_formats_are_refused(name: str) -> None:
    save("a.png")
    with pytest.raises(ValueError, match=r"ending in \.png, .*found 'out\."):
        upscale("a.png", name)
    assert files(".") == ["a.png"]


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_results_of_the_same_command_are_there_already(
    stage2: str, suffix, strip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    save("a.png")
    settings = {"checkpoint": stage2, "device": "cpu", "format": suffix, "strip": strip}
    assert upscale("a.png", "out", control=1 / 3, **settings) == 0
    before = Path(f"out/a.{suffix}").read_bytes()
    capsys.readouterr()
    assert upscale("a.png", "out", control=1 / 3, **settings) == 0
    assert "0 images restored; 1 already there" in capsys.readouterr().out
    assert upscale("a.png", "out", control=1.0, **settings) == 1
    assert (
        f"'out/a.{suffix}' is there already, made with t 0.3333333333333333 in place of 1.0" in capsys.readouterr().err
    )
    assert Path(f"out/a.{suffix}").read_bytes() == before


def test_results_of_other_commands_are_not(stage2: str, stage1: str, capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png")
    save("other/a.png")
    assert upscale("a.png", "out", checkpoint=stage2, device="cpu") == 0
    before = Path("out/a.png").read_bytes()

    def refused(image: str = "a.png", checkpoint: str = stage2, **options: object) -> str:
        assert upscale(image, "out", checkpoint=checkpoint, device="cpu", **options) == 1
        assert Path("out/a.png").read_bytes() == before
        return capsys.readouterr().err

    assert "'out/a.png' is there already, made with model " in refused(checkpoint=stage1)
    assert "made with color none in place of adain. Use --overwrite, or another output" in refused(color="adain")
    assert "made with profile srgb in place of keep" in refused(profile="keep")
    assert "made with strip no in place of yes" in refused(strip=True)
    assert "made with precision float32 in place of bfloat16" in refused(precision="bfloat16")
    assert "made from another image" in refused("other/a.png")
    assert upscale("a.png", "out", checkpoint=stage2, device="cpu", color="adain", overwrite=True) == 0
    assert Path("out/a.png").read_bytes() != before


def test_files_that_do_not_say_it_are_not_passed_off(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png")
    save("out/a.png")
    before = Path("out/a.png").read_bytes()
    assert upscale("a.png", "out", checkpoint=stage2, device="cpu") == 1
    assert "is there already, and does not say how it was made. Use --overwrite" in capsys.readouterr().err
    assert Path("out/a.png").read_bytes() == before


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_results_beside_their_images_are_no_input(stage2: str, suffix, capsys: pytest.CaptureFixture[str]) -> None:
    save("in/a.png")
    save("in/sub/b.png")
    for _ in range(2):
        assert upscale("in", "in", checkpoint=stage2, device="cpu", format=suffix) == 0
    assert files("in") == [f"a.{suffix}", "a.png", f"sub/b.{suffix}", "sub/b.png"]
    capsys.readouterr()
    assert upscale("in/a.png", f"in/a.{suffix}", "in", checkpoint=stage2, device="cpu", format=suffix) == 0
    assert f"'in/a.{suffix}' is the result of an earlier run and left out" in capsys.readouterr().err
    assert upscale(f"in/a.{suffix}", "again", checkpoint=stage2, device="cpu") == 0
    assert upscale("in/sub", "in", checkpoint=stage2, device="cpu", format="webp") == 0  # b.png is below the output
    assert "b.webp" in files("in")


def test_images_below_the_output_folder_are_told(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    save("in/a.png")
    save("in/out/foreign.png")
    for _ in range(2):
        assert upscale("in", "in/out", checkpoint=stage2, device="cpu") == 0
        assert "ctsr: 1 image is left out that lies in the output folder 'in/out'\n" in capsys.readouterr().err
    assert files("in") == ["a.png", "out/a.png", "out/foreign.png"]
    Path("in/out/foreign.png").unlink()
    with pytest.raises(FileNotFoundError, match="that are no results of earlier runs"):
        upscale("in/out", "in", checkpoint=stage2)


def test_bytes_that_are_no_letters_in_names(stage2: str) -> None:
    name = os.fsdecode(b"in/caf\xe9")
    try:
        save(f"{name}.png")
    except OSError:
        pytest.skip("this file system has letters in names alone")
    shutil.copy(f"{name}.png", f"{name}2.tif")
    assert upscale("in", "out", checkpoint=stage2, device="cpu") == 0
    assert len(files("out")) == 2
