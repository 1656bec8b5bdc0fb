"""`ctsr upscale` gives back what a photograph has: grey, transparency, depth, colours, metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from ctsr_lightning.cli import main
from ctsr_lightning.commands.upscale import upscale
from ctsr_lightning.images import Metadata, Picture, read_picture, write_picture
from ctsr_lightning.images.metadata import RECORD_TAG
from ctsr_lightning.images.profiles import srgb_profile
from ctsr_lightning.inference.restorer import Restorer
from helpers.icc import rgb_profile

LEVELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
COLOURS = torch.from_numpy(LEVELS).permute(2, 0, 1) / 255


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mode(path: str) -> str:
    with Image.open(path) as image:
        return image.mode


@pytest.mark.parametrize(("source", "result"), [("1", "L"), ("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("P", "RGB")])
def test_grey_has_no_tint(stage2: str, source: str, result: str) -> None:
    Image.fromarray(LEVELS).convert("L").convert(source).save("in.png")
    assert upscale("in.png", "out", checkpoint=stage2, control=0.5, device="cpu") == 0
    assert mode("out/in.png") == result
    found = read_picture("out/in.png")
    assert torch.equal(found.colours, found.colours[:1].expand(3, -1, -1))
    expected = Restorer.from_pretrained(stage2, "cpu")(read_picture("in.png").colours, 0.5)
    assert (expected - expected.mean(dim=0)).abs().max() > 0.01  # the toy model does tint
    assert (found.colours[0] - expected.mean(dim=0)).abs().max() <= 0.51 / 255


def test_transparency_goes_with_the_image(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    rgba = np.dstack([LEVELS, np.full((9, 12), 255, dtype=np.uint8)])
    rgba[:, :6] = 0  # black that nobody sees
    Image.fromarray(rgba).save("in.png")
    assert upscale("in.png", "out", checkpoint=stage2, device="cpu") == 0
    found = read_picture("out/in.png")
    assert found.alpha is not None
    assert found.alpha[..., :16].max() < 0.01
    assert found.alpha[..., 32:].min() > 0.99
    rgba[:, :6, :3] = (0, 255, 0)  # other colours that nobody sees
    Image.fromarray(rgba).save("in.png")
    assert upscale("in.png", "out2", checkpoint=stage2, device="cpu") == 0
    assert torch.equal(read_picture("out2/in.png").colours, found.colours)
    capsys.readouterr()
    assert upscale("in.png", "out", checkpoint=stage2, device="cpu", format="jpg") == 0
    assert "ctsr: 'in.png': jpg has no transparency, it is put over white.\n" in capsys.readouterr().err
    with Image.open("out/in.jpg") as image:
        assert np.asarray(image)[:, :12].min() > 240


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("grey", [False, True])
def test_sixteen_bits_come_out_as_sixteen(stage2: str, suffix: str, grey: bool) -> None:
    colours = torch.rand(3, 5, 6)
    colours = colours[:1].expand(3, -1, -1) if grey else colours
    write_picture(Path(f"in.{suffix}"), Picture(colours, grey=grey, depth=16))
    assert upscale(f"in.{suffix}", f"out.{suffix}", checkpoint=stage2, device="cpu") == 0
    found = read_picture(f"out.{suffix}")
    expected = Restorer.from_pretrained(stage2, "cpu")(read_picture(f"in.{suffix}").colours)
    expected = expected.mean(dim=0, keepdim=True).expand(3, -1, -1) if grey else expected
    assert (found.depth, found.grey) == (16, grey)
    assert (found.colours - expected).abs().max() <= 0.51 / 65535


def test_colours_are_converted_or_kept(stage2: str) -> None:
    Image.fromarray(LEVELS).save("in.png", icc_profile=rgb_profile())
    Image.fromarray(LEVELS).save("plain.png")
    words = ["--checkpoint", stage2, "--device", "cpu"]
    main(["upscale", "in.png", "out", *words])
    main(["upscale", "in.png", "kept", "--profile", "keep", *words])
    main(["upscale", "plain.png", "out", *words])
    with Image.open("kept/in.png") as kept, Image.open("out/plain.png") as plain:
        assert kept.info["icc_profile"] == rgb_profile()
        assert "icc_profile" not in plain.info
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(plain))
    expected = Restorer.from_pretrained(stage2, "cpu")(read_picture("in.png").colours)
    assert (read_picture("out/in.png").colours - expected).abs().max() <= 0.51 / 255
    with Image.open("out/in.png") as converted:
        assert converted.info["icc_profile"] == srgb_profile()


def test_metadata_go_with_the_result_unless_stripped(stage2: str) -> None:
    metadata = Metadata({0x10F: "maker", 0x132: "2020:01:02 03:04:05"}, {0xA002: 12}, {}, (300, 300), rgb_profile())
    write_picture(Path("in.jpg"), Picture(COLOURS, metadata=metadata))
    assert upscale("in.jpg", "out", checkpoint=stage2, device="cpu") == 0
    found = read_picture("out/in.png").metadata
    assert (found.exif[0x10F], found.exif[0x132], found.photo[0xA002]) == ("maker", "2020:01:02 03:04:05", 48)
    assert found.exif[ExifTags.Base.XResolution] == 300
    assert upscale("in.jpg", "bare", checkpoint=stage2, device="cpu", format="jpg", strip=True) == 0
    with Image.open("bare/in.jpg") as image:
        assert set(image.getexif()) == {RECORD_TAG}
        assert "icc_profile" not in image.info
    with pytest.raises(ValueError, match="Expected one of --strip and --profile keep"):
        upscale("in.jpg", "bare", checkpoint=stage2, strip=True, profile="keep")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_taken_and_said(
    stage2: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = (Image.new("RGB", (6, 5), color) for color in ("gray", "red", "blue"))
    Path("in").mkdir()
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(f"in/a.{suffix}", save_all=True, append_images=others, **options)
    assert upscale("in", "out", checkpoint=stage2, device="cpu") == 0
    assert f"ctsr: 'in/a.{suffix}': the first of its 3 frames is taken.\n" in capsys.readouterr().err
    assert torch.equal((picture := read_picture("out/a.png")).colours, picture.colours[:1].expand(3, -1, -1))
