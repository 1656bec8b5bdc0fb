"""`ctsr upscale` on the files that people have."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.codecs.nano_codec import LappedDecoder
from ctsr_lightning.commands.jobs import distinct, marks
from ctsr_lightning.commands.upscale import upscale
from ctsr_lightning.images import read_image, upsample
from ctsr_lightning.inference.color import match_adain, match_wavelet
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.settings import Color


def save(path: Path, shape: tuple[int, int] = (12, 9), mode: str = "RGB", **options: object) -> Path:
    """Write a random image of the given width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(path.name))
    channels = {"RGB": 3, "L": 1, "LA": 2, "RGBA": 4}.get(mode, 1)
    if mode == "I;16":
        pixels = generator.integers(0, 65536, shape[::-1], dtype=np.uint16)
    else:
        pixels = generator.integers(0, 256, (*shape[::-1], channels), dtype=np.uint8)
        pixels = pixels[..., 0] if channels == 1 else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


def size(path: str) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_image_one_control(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("in.jpg"))
    main(["upscale", "in.jpg", "out", "--checkpoint", stage2, "--control", "0.5", "--device", "cpu"])
    assert files(Path("out")) == ["in.png"]
    expected = Restorer.from_pretrained(stage2, "cpu")(read_image("in.jpg"), 0.5)
    assert (read_image("out/in.png") - expected).abs().max() <= 0.5 / 255 + 1e-6
    out = capsys.readouterr().out
    assert out.startswith("1 image restored, ")
    assert out.endswith("s per image → out\n")


def test_the_shipped_model_is_taken_where_none_is_named(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("in.jpg"))
    main(["upscale", "in.jpg", "out", "--control", "1", "--device", "cpu"])
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model:")]
    assert "nano (shipped with ctsr_lightning" in said
    assert "--checkpoint FILE" in said
    expected = Restorer.from_pretrained(shipped / "stage2" / "weights.safetensors", "cpu")(read_image("in.jpg"), 1.0)
    assert (read_image("out/in.png") - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_a_package_without_its_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("ctsr_lightning.weights.shipped.shipped_folder", lambda: tmp_path / "nothing")
    save(Path("in.jpg"))
    with pytest.raises(SystemExit):
        main(["upscale", "in.jpg", "out", "--device", "cpu"])
    assert "another model by --checkpoint FILE" in capsys.readouterr().err


def test_folder_of_everything(stage2: str) -> None:
    """Odd sizes, grey, alpha, 16 bits, EXIF rotation, sub-folders, other files."""
    save(Path("in/rgb.png"), (13, 7))
    save(Path("in/grey.png"), (5, 5), "L")
    save(Path("in/alpha.png"), (6, 4), "RGBA")
    save(Path("in/deep/er/sixteen.png"), (8, 8), "I;16")
    save(Path("in/pixel.bmp"), (1, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    save(Path("in/rotated.JPG"), (10, 4), exif=exif)
    Path("in/notes.txt").write_text("not an image")
    assert upscale("in", "out", checkpoint=stage2, control="0,1", device="cpu") == 0
    names = ["alpha", "deep/er/sixteen", "grey", "pixel", "rgb", "rotated"]
    assert files(Path("out")) == sorted(f"{n}_t{t}.png" for n in names for t in ("0.00", "1.00"))
    assert size("out/rgb_t0.00.png") == (52, 28)
    assert size("out/rotated_t1.00.png") == (16, 40)
    assert size("out/pixel_t1.00.png") == (4, 4)
    assert Path("out/rgb_t0.00.png").read_bytes() != Path("out/rgb_t1.00.png").read_bytes()


def test_unreadable_files_are_named_skipped_and_counted(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("in/good.png"))
    Path("in/empty.png").touch()
    whole = save(Path("in/half.jpg"), (64, 64)).read_bytes()
    Path("in/half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as end:
        main(["upscale", "in", "out", "--checkpoint", stage2, "--device", "cpu"])
    assert end.value.code == 1
    assert files(Path("out")) == ["good.png"]
    captured = capsys.readouterr()
    assert "1 image restored" in captured.out
    assert "2 failed" in captured.out
    assert "empty.png" in captured.err
    assert "half.jpg" in captured.err


def test_same_stems_do_not_meet(stage2: str) -> None:
    save(Path("in/a.png"), (4, 4))
    save(Path("in/a.jpg"), (8, 8))
    save(Path("in/b/a.png"), (4, 8))
    assert upscale("in", "out", checkpoint=stage2, device="cpu") == 0
    sizes = {name: size(f"out/{name}") for name in files(Path("out"))}
    assert sizes == {"a_png.png": (16, 16), "a_jpg.png": (32, 32), "b/a.png": (16, 32)}


def test_names_that_would_meet_after_all() -> None:
    sources = [Path(n) for n in ("a.png", "A.jpg", "a_png.bmp", "c.png")]
    names = list(distinct([s.with_suffix("") for s in sources], sources))
    assert len({n.casefold() for n in names}) == 4
    assert names[2:] == ["a_png", "c"]


def test_an_interrupted_run_goes_on(
    stage2: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        save(Path(f"in/{name}.png"))
    assert upscale("in", "out", checkpoint=stage2, control="0,1", device="cpu") == 0
    Path("out/b_t1.00.png").unlink()
    kept = {n: (Path("out") / n).stat().st_mtime_ns for n in files(Path("out"))}
    capsys.readouterr()
    assert upscale("in", "out", checkpoint=stage2, control="0,1", device="cpu") == 0
    assert "1 image restored" in (out := capsys.readouterr().out)
    assert "1 already there" in out
    assert {n: (Path("out") / n).stat().st_mtime_ns for n in kept} == kept
    assert len(files(Path("out"))) == 4
    assert upscale("in", "out", checkpoint=stage2, control="0,1", device="cpu", overwrite=True) == 0
    assert all((Path("out") / n).stat().st_mtime_ns > t for n, t in kept.items())
    capsys.readouterr()
    monkeypatch.setattr(Restorer, "from_pretrained", None)  # no model is read
    assert upscale("in", "out", checkpoint=stage2, control="0,1") == 0
    assert (
        capsys.readouterr().out
        == "0 images restored at 2 values of t; 2 already there (--overwrite replaces them) → out\n"
    )


def test_output_file_and_format(stage2: str) -> None:
    save(Path("in.png"))
    upscale("in.png", "new/name.jpg", checkpoint=stage2, device="cpu")
    upscale("in.png", "new/name.jpg", checkpoint=stage2, control="0,0.125", device="cpu")
    upscale("in.png", "out", checkpoint=stage2, format="webp", device="cpu")
    assert files(Path("new")) == ["name.jpg", "name_t0.00.jpg", "name_t0.125.jpg"]
    assert Path("out/in.webp").read_bytes()[8:12] == b"WEBP"


def test_results_are_not_taken_for_input(stage2: str) -> None:
    save(Path("in/a.png"))
    for _ in range(2):
        assert upscale("in", "in/restored", checkpoint=stage2, device="cpu") == 0
    assert files(Path("in")) == ["a.png", "restored/a.png"]


@pytest.mark.parametrize("words", [["in", "in"], ["in/a.png", "in"], ["in/a.png", "in/a.png"]])
def test_originals_are_never_replaced(stage2: str, words: list[str]) -> None:
    before = save(Path("in/a.png")).read_bytes()
    with pytest.raises(ValueError, match="would replace an input image"):
        upscale(*words, checkpoint=stage2, overwrite=True)
    assert Path("in/a.png").read_bytes() == before


def test_tiles_make_no_difference_to_small_images(stage2: str) -> None:
    save(Path("a.png"), (20, 16))
    upscale("a.png", "whole", checkpoint=stage2, tile=0, device="cpu")
    upscale("a.png", "tiled", checkpoint=stage2, tile=32, device="cpu")
    assert Path("whole/a.png").read_bytes() == Path("tiled/a.png").read_bytes()


@pytest.mark.parametrize(("color", "match"), [("adain", match_adain), ("wavelet", match_wavelet)])
def test_colours_of_the_input(stage2: str, color: str, match) -> None:
    lq = read_image(save(Path("in.png"), (40, 31)))[None]
    words = ["in.png", "out", "--checkpoint", stage2, "--control", "0,1", "--tile", "16", "--device", "cpu"]
    main(["upscale", *words, "--color", color])
    for t, image in zip((0.0, 1.0), Restorer.from_pretrained(stage2, "cpu", tile=16)(lq, [0.0, 1.0]), strict=True):
        written, expected = read_image(f"out/in_t{t:.2f}.png"), match(image, upsample(lq, 4))[0]
        assert (written - expected).abs().max() <= 0.5 / 255 + 1e-6
        assert (written - image[0]).abs().max() > 0.02


def test_the_option_knows_every_correction(capsys: pytest.CaptureFixture[str]) -> None:
    assert get_args(inspect.signature(upscale).parameters["color"].annotation) == get_args(Color)
    with pytest.raises(SystemExit) as end:
        main(["upscale", "a.png", "out", "--color", "sepia"])
    assert end.value.code != 0
    assert "none" in (message := capsys.readouterr().err)
    assert "adain" in message
    assert "wavelet" in message


def test_stage_one(stage1: str) -> None:
    save(Path("a.png"))
    assert upscale("a.png", "out", checkpoint=stage1, device="cpu") == 0
    with pytest.raises(ValueError, match="model without a slider"):
        upscale("a.png", "other", checkpoint=stage1, control="0,0.5", device="cpu")


def test_images_on_which_the_networks_fail_are_skipped(
    stage2: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("a.png"))
    decode = LappedDecoder.forward
    monkeypatch.setattr(LappedDecoder, "forward", lambda *a: decode(*a) * float("nan"))
    assert upscale("a.png", "out", checkpoint=stage2, device="cpu") == 1
    assert "'a.png': The model produced NaN" in capsys.readouterr().err
    assert files(Path("out")) == []


@pytest.mark.parametrize(
    ("tile", "longest", "remedy"),
    [
        (64, 70, "Use --tile 32 or less (now: tiles of 64 pixels)"),
        (0, 300, "Use --tile 128 or less (now: the whole image at once)"),
        (0, 70, "Use --tile 35 or less (now: the whole image at once)"),
        (192, 70, "Use --tile 35 or less (now: the whole image at once)"),
        (0, 9, "Use --device cpu, or free memory"),
    ],
)
def test_too_little_memory_names_the_remedy(
    tile: int,
    longest: int,
    remedy: str,
    stage2: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    save(Path("a.png"), (longest, 3))
    monkeypatch.setattr(Restorer, "trajectory", full)
    assert upscale("a.png", "out", checkpoint=stage2, device="cpu", tile=tile) == 1
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png", "out"], "Expected an image or a folder of images at 'missing.png', found nothing."),
        (["empty", "out"], "Expected images ("),
        (["a.png", "out", "--control", "1.5"], "t in [0, 1] (0 realness, 1 fidelity), found 1.5"),
        (["a.png", "out", "--control", "0,x"], "found '0,x'"),
        (["a.png", "out", "--control", ""], "Expected a value for --control, found an empty text"),
        (["a.png", "out", "--checkpoint", "a.png"], "Expected a Lightning checkpoint or safetensors file at 'a.png'"),
        (["a.png", "out", "--checkpoint", "no.ckpt"], "weight file (.safetensors, .ckpt or .pkl) at 'no.ckpt'"),
        (["in", "out.png"], "'in' is a folder, so its results need a folder too"),
    ],
)
def test_mistakes_are_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("a.png"))
    save(Path("in/a.png"))
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["upscale", *words])
    assert end.value.code == 1
    assert message in capsys.readouterr().err


def test_marks_tell_values_apart() -> None:
    assert marks([0.3]) == [""]
    assert marks([0.0, 0.5, 0.501, 1 / 3]) == ["_t0.00", "_t0.50", "_t0.501", "_t0.3333333333333333"]
