"""Sizes, maps of t and the image's space of `ctsr upscale`; progress over tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ctsr_lightning.cli import main
from ctsr_lightning.images import read_image, read_record, resize_bicubic, write_image
from ctsr_lightning.inference.control_map import automatic_map, fit_map
from ctsr_lightning.inference.restorer import Restorer


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """A photo of 10 x 12 pixels in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_image("in.png", torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0)))
    return read_image("in.png")


def upscale(*options: str) -> None:
    main(["upscale", "in.png", "out", "--device", "cpu", *options])


def difference(path: str, expected: Tensor) -> float:
    return float((read_image(path) - expected.clamp(0, 1)).abs().max())


EXACT = 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--scale", "2"], (20, 24)),
        (["--scale", "3.3"], (33, 40)),
        (["--width", "30"], (25, 30)),
        (["--height", "7"], (7, 8)),
    ],
)
def test_sizes(stage2: str, photo: Tensor, options: list[str], size: tuple[int, int]) -> None:
    upscale("--checkpoint", stage2, *options)
    own = Restorer.from_pretrained(stage2, "cpu")(photo)
    assert difference("out/in.png", resize_bicubic(own[None], size)[0]) <= EXACT


def test_transparency_has_the_results_size(stage2: str) -> None:
    Image.new("RGBA", (12, 10), (200, 100, 50, 128)).save("in.png")
    upscale("--checkpoint", stage2, "--width", "18")
    with Image.open("out/in.png") as image:
        assert (image.mode, image.size) == ("RGBA", (18, 15))


def test_two_sizes_are_refused(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        upscale("--checkpoint", stage2, "--scale", "2", "--width", "30")
    assert "found scale 2.0 and width 30" in capsys.readouterr().err


def test_results_of_another_size_or_space_are_not_taken_for_done(
    stage2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upscale("--checkpoint", stage2, "--scale", "2")
    upscale("--checkpoint", stage2, "--scale", "2")
    assert "already there" in capsys.readouterr().out
    assert "size=scale:2.0 space=latent" in (read_record(Path("out/in.png")) or "")
    with pytest.raises(SystemExit):
        upscale("--checkpoint", stage2, "--space", "image")
    assert "made with size scale:2.0 in place of own, space latent in place of image" in capsys.readouterr().err


def test_the_images_space(stage2: str, photo: Tensor) -> None:
    upscale("--checkpoint", stage2, "--space", "image", "--control", "0,0.25")
    low, high = Restorer.from_pretrained(stage2, "cpu")(photo, [0.0, 1.0])
    assert difference("out/in_t0.25.png", 0.75 * low + 0.25 * high) <= EXACT


def test_a_mask(stage2: str, photo: Tensor) -> None:
    Image.new("L", (12, 10), 255).save("mask.png")
    upscale("--checkpoint", stage2, "--control-map", "mask.png")
    assert difference("out/in.png", Restorer.from_pretrained(stage2, "cpu")(photo, 1.0)) <= EXACT
    assert "t=map:" in (read_record(Path("out/in.png")) or "")


def test_the_automatic_map_and_its_picture(stage2: str, photo: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    upscale("--checkpoint", stage2, "--control-map", "auto", "--save-map")
    control = fit_map(automatic_map(photo[None]), (40, 48))
    assert difference("out/in.png", Restorer.from_pretrained(stage2, "cpu")(photo, control)) <= EXACT
    assert difference("out/in_map.png", control[0].expand(3, -1, -1)) <= EXACT
    assert "t=auto" in (read_record(Path("out/in.png")) or "")
    capsys.readouterr()
    main(["upscale", "out", "out2", "--checkpoint", stage2, "--device", "cpu"])  # an ordinary folder of images
    assert "2 images restored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--control-map", "auto", "--control", "0.5"], "one of --control and --control-map"),
        (["--control-map", "nothing.png"], "Expected a map at 'nothing.png'"),
        (["--save-map"], "Expected --control-map with --save-map"),
    ],
)
def test_options_that_do_not_go_together(
    stage2: str, options: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        upscale("--checkpoint", stage2, *options)
    assert match in capsys.readouterr().err


def test_a_model_without_a_slider_takes_no_map(stage1: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        upscale("--checkpoint", stage1, "--control-map", "auto")
    assert "model without a slider" in capsys.readouterr().err


def test_a_mask_of_another_shape_is_named(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (10, 10), 255).save("mask.png")
    with pytest.raises(SystemExit):
        upscale("--checkpoint", stage2, "--control-map", "mask.png")
    assert "12x10 or a multiple, found 10x10" in capsys.readouterr().err


def test_large_photos_have_an_estimate(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_image("in.png", torch.rand(3, 40, 60))
    upscale("--checkpoint", stage2, "--tile", "16")
    said = capsys.readouterr().err
    tiles = Restorer.from_pretrained(stage2, "cpu", tile=16).tiles(40, 60)
    assert f"'in.png': 240x160 pixels (0.0 megapixels), {tiles} tiles." in said
    assert " s for the first tile, about " in said
    assert f"tiles {tiles}/{tiles}" in said
    upscale("--checkpoint", stage2, "--control", "0,0.2,0.4,0.6,0.8,1", "--overwrite")  # in one tile, six times
    assert "tile" not in capsys.readouterr().err
