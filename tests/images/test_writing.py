"""What is read is written, where the format has room for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from ctsr_lightning.images import (
    Metadata,
    Picture,
    UnreadableImageError,
    check_size,
    image_kind,
    image_size,
    read_image,
    read_picture,
    read_pixels,
    read_record,
    write_picture,
)
from ctsr_lightning.images import writing as writing_module
from ctsr_lightning.images.metadata import LAYOUT, result_exif
from helpers.icc import rgb_profile

COLOURS = torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(0))
ALPHA = torch.rand(1, 6, 9, generator=torch.Generator().manual_seed(1))
SUFFIXES = ("png", "tif", "jpg", "webp", "bmp")


def mode(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, ALPHA])
@pytest.mark.parametrize("depth", [8, 16])
def test_all_is_written_and_read(tmp_path: Path, suffix: str, grey: bool, alpha: torch.Tensor | None, depth) -> None:
    path = tmp_path / f"a.{suffix}"
    colours = COLOURS[:1].expand(3, -1, -1) if grey else COLOURS
    assert write_picture(path, Picture(colours, alpha, grey, depth)) == []
    found = read_picture(path)
    assert (found.depth, found.notes, found.alpha is None) == (depth, (), alpha is None)
    assert (found.colours - colours).abs().max() <= 0.51 / (2**depth - 1)
    assert alpha is None or (found.alpha - alpha).abs().max() <= 0.51 / (2**depth - 1)
    assert found.grey == grey or (suffix, depth) == ("tif", 16)  # nothing reads grey of 16 bits with alpha there
    assert bool((found.colours == found.colours[:1]).all()) == grey
    assert image_kind(path) == ("transparent" if alpha is not None else "grey" if grey else "colour")


def test_pillow_agrees_about_deep_files(tmp_path: Path) -> None:
    for suffix in ("png", "tif"):
        write_picture(tmp_path / f"a.{suffix}", Picture(COLOURS, ALPHA, depth=16))
        expected = torch.cat([COLOURS, ALPHA]).mul(65535).round().int().numpy() >> 8
        with Image.open(tmp_path / f"a.{suffix}") as image:
            np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_files_are_turned_upright(
    tmp_path: Path, suffix: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned(*args: object) -> Image.Exif:
        exif = result_exif(*args)
        exif[ExifTags.Base.Orientation] = orientation
        return exif

    monkeypatch.setattr(writing_module, "result_exif", turned)
    for depth in (8, 16):
        write_picture(tmp_path / f"{depth}.{suffix}", Picture(COLOURS, depth=depth))
    image = read_image(tmp_path / f"16.{suffix}")
    assert read_pixels(tmp_path / f"16.{suffix}").dtype == np.float32
    assert (image - read_image(tmp_path / f"8.{suffix}")).abs().max() <= 0.51 / 255
    assert image_size(tmp_path / f"16.{suffix}") == tuple(image.shape[1:])


def test_twelve_bits_in_sixteen_stay_as_they_are(tmp_path: Path) -> None:
    levels = np.arange(0, 4096, 128, dtype=np.uint16).reshape(4, 8)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[0], levels / 65535, rtol=1e-6)


def test_integers_of_32_bits_are_refused_as_floats_are(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match="32-bit integer images have no defined range"):
        read_image(tmp_path / "a.tif")


def test_what_a_format_has_no_room_for_is_told(tmp_path: Path) -> None:
    picture = Picture(COLOURS, ALPHA, depth=16, metadata=Metadata({0x10F: "maker"}, profile=rgb_profile()))
    told = {suffix: write_picture(tmp_path / f"a.{suffix}", picture) for suffix in SUFFIXES}
    rounded, white = "{} has 8 bits, its 16 are rounded", "{} has no transparency, it is put over white"
    assert (told["png"], told["tif"], told["webp"]) == ([], [], [rounded.format("webp")])
    assert told["jpg"] == [white.format("jpg"), rounded.format("jpg")]
    assert told["bmp"][2:] == ["bmp has no room for its EXIF", "bmp has no room for its colour profile"]
    expected = COLOURS * ALPHA + 1 - ALPHA
    assert (read_image(tmp_path / "a.bmp") - expected).abs().max() <= 0.51 / 255
    assert {suffix: mode(tmp_path / f"a.{suffix}") for suffix in SUFFIXES} == {
        "png": "RGBA", "tif": "RGBA", "webp": "RGBA", "jpg": "RGB", "bmp": "RGB",
    }  # fmt: skip
    assert write_picture(tmp_path / "b.jpg", Picture(COLOURS, torch.ones_like(ALPHA))) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("depth", [8, 16])
def test_metadata_go_with_a_picture(tmp_path: Path, suffix: str, depth) -> None:
    exif = Image.Exif()
    exif.update({0x10F: "maker", 0x132: "2020:01:02 03:04:05", 0x112: 6, 0x8298: "someone"})
    exif[ExifTags.IFD.Exif] = {0x9003: "2020:01:02 03:04:05", 0xA002: 9, 0xA003: 6, 0x829A: 0.25}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    levels = np.zeros((6, 9, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300), icc_profile=rgb_profile())
    picture = read_picture(tmp_path / "in.jpg", keep_profile=True)
    assert picture.colours.shape == (3, 9, 6)
    large = Picture(torch.zeros(3, 36, 24), depth=depth, metadata=picture.metadata)
    path = tmp_path / f"out.{suffix}"
    write_picture(path, large, "ctsr t=0.5")
    assert read_record(path) == "ctsr t=0.5"
    found = read_picture(path).metadata
    with Image.open(path) as image:
        assert ExifTags.Base.Orientation not in image.getexif() or suffix == "bmp"
        assert suffix == "webp" or np.allclose(image.info["dpi"], 300, atol=0.01)
        assert image.info.get("icc_profile") == (None if suffix == "bmp" else rgb_profile())
    if suffix != "bmp":
        assert (found.exif[0x10F], found.exif[0x132], found.exif[0x8298]) == (
            "maker", "2020:01:02 03:04:05", "someone",
        )  # fmt: skip
        assert (found.photo[0xA002], found.photo[0xA003], found.photo[0x829A]) == (24, 36, 0.25)
        assert found.gps[2] == (1.0, 2.0, 3.0)
        assert float(found.exif[0x11A]) == 300.0
        assert not LAYOUT & found.exif.keys()


def test_exif_that_is_damaged_or_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((6, 9, 3), dtype=np.uint8)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    picture = read_picture(path)
    assert write_picture(tmp_path / "b.jpg", picture, "ctsr t=1") == []
    long = Picture(COLOURS, metadata=Metadata(photo={0x927C: bytes(66000)}))
    assert write_picture(path, long, "ctsr t=1") == ["jpg has no room for its EXIF"]
    assert read_record(path) == "ctsr t=1"
    assert write_picture(tmp_path / "a.png", long, "ctsr t=1") == []


def test_files_of_others_have_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    Image.fromarray(np.zeros((6, 9), dtype=np.uint8)).save(tmp_path / "a.bmp")
    assert [read_record(tmp_path / name) for name in ("a.png", "a.bmp", "missing.png")] == [None] * 3


def test_sizes_that_a_format_does_not_have_are_refused() -> None:
    check_size(Path("a.png"), 70000, 70000)
    check_size(Path("a.webp"), 16383, 1)
    for name, side in (("a.webp", 16384), ("a.JPG", 65501)):
        with pytest.raises(ValueError, match=f"pixels a side for '{name}', found 1x{side}"):
            check_size(Path(name), side, 1)
