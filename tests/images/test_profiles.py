"""Colours are those that the file's profile means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctsr_lightning.images import Metadata, Picture, read_image, read_picture, read_pixels, to_uint8, write_picture
from ctsr_lightning.images.profiles import deep_to_srgb, is_srgb, srgb_profile, to_srgb
from helpers.icc import ADOBE, SRGB, cmyk_profile, grey_profile, rgb_profile

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(linear: np.ndarray) -> np.ndarray:
    """The curve of sRGB (IEC 61966-2-1)."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decoded(levels: np.ndarray, gamma: float) -> np.ndarray:
    """sRGB of values with Adobe's primaries, by the formulas."""
    return encoded((levels / 255) ** gamma @ np.array(ADOBE) @ np.linalg.inv(np.array(SRGB)))


def from_lab(lightness: float, a: float, b: float) -> np.ndarray:
    """sRGB of a colour in CIE Lab under D50, not too dark."""
    y = (lightness + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200]) ** 3 * [0.96422, 1.0, 0.82521]
    return encoded(xyz @ np.linalg.inv(np.array(SRGB)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_other_primaries_are_converted(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(LEVELS).convert(mode)
    source.save(tmp_path / "a.png", icc_profile=rgb_profile())
    expected = decoded(np.asarray(source.convert("RGB")), 2.199)
    assert np.abs(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy() - expected).max() < 1.5 / 255
    assert read_pixels(tmp_path / "a.png").dtype == np.uint8


def test_swapped_channels_are_swapped_back(tmp_path: Path) -> None:
    swapped = rgb_profile(SRGB[::-1], 2.2)
    Image.fromarray(LEVELS[..., ::-1].copy()).save(tmp_path / "a.png", icc_profile=swapped)
    Image.fromarray(LEVELS).save(tmp_path / "b.png", icc_profile=rgb_profile(SRGB, 2.2))
    difference = read_image(tmp_path / "a.png") - read_image(tmp_path / "b.png")
    assert difference.abs().max() < 1.5 / 255


def test_srgb_changes_nothing(tmp_path: Path) -> None:
    assert is_srgb(srgb_profile())
    assert srgb_profile() == srgb_profile()
    Image.fromarray(LEVELS).save(tmp_path / "a.png", icc_profile=srgb_profile())
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), LEVELS)
    assert read_picture(tmp_path / "a.png").metadata.profile == srgb_profile()


@pytest.mark.parametrize("profile", [grey_profile(1.8), rgb_profile(gamma=1.8)])
def test_grey_stays_grey(tmp_path: Path, profile: bytes) -> None:
    Image.fromarray(LEVELS[..., 0]).save(tmp_path / "a.png", icc_profile=profile)
    pixels = read_pixels(tmp_path / "a.png")
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] / 255 - encoded((LEVELS[..., 0] / 255) ** 1.8)).max() < 2.5 / 255
    assert read_picture(tmp_path / "a.png").grey


def test_inks_are_those_of_their_profile(tmp_path: Path) -> None:
    inks = np.zeros((2, 2, 4), dtype=np.uint8)
    inks[0, 0, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif", icc_profile=cmyk_profile((50.0, 30.0, 20.0)))
    pixels = read_pixels(tmp_path / "a.tif")
    assert np.abs(pixels[0, 0] / 255 - from_lab(50.0, 30.0, 20.0)).max() < 2.5 / 255  # not cyan
    assert (pixels[1] >= 254).all()


def test_lab_is_read(tmp_path: Path) -> None:
    Image.new("LAB", (3, 2), (128, 128 + 30, 128 + 20)).save(tmp_path / "a.tif")
    assert np.abs(read_pixels(tmp_path / "a.tif")[0, 0] / 255 - from_lab(50.0, 30.0, 20.0)).max() < 2.5 / 255
    assert not read_picture(tmp_path / "a.tif").grey


def test_deep_conversion_is_that_of_eight_bits_and_finer() -> None:
    for profile in (rgb_profile(), rgb_profile(SRGB[::-1], 1.8)):
        by_pillow = np.asarray(to_srgb(Image.fromarray(LEVELS), profile)) / 255
        assert np.abs(deep_to_srgb(LEVELS.astype(np.float32) / 255, profile) - by_pillow).max() < 1.5 / 255
    steps = np.linspace(0.4, 0.41, 50, dtype=np.float32).repeat(3).reshape(1, -1, 3)
    assert (np.diff(deep_to_srgb(steps, rgb_profile())[0, :, 1]) > 0).all()
    assert np.abs(deep_to_srgb(steps, srgb_profile()) - steps).max() < 1e-4  # a curve with parameters


def test_sixteen_bits_are_converted_as_sixteen(tmp_path: Path) -> None:
    ramp = torch.linspace(0.4, 0.41, 40).expand(3, 2, 40)
    for grey, profile in ((False, rgb_profile()), (True, grey_profile(1.8))):
        source = Picture(ramp, grey=grey, depth=16, metadata=Metadata(profile=profile))
        write_picture(tmp_path / "a.png", source)
        picture = read_picture(tmp_path / "a.png")
        assert (picture.depth, picture.grey, picture.notes) == (16, grey, ())
        assert len(picture.colours[1, 0].unique()) == 40
        assert picture.metadata.profile == (None if grey else srgb_profile())


@pytest.mark.parametrize(
    ("profile", "reason"),
    [(b"no profile", "damaged"), (rgb_profile()[:200], "damaged"), (grey_profile(2.2), "it is for GRAY")],
)
def test_profiles_that_cannot_be_used_are_told(tmp_path: Path, profile: bytes, reason: str) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.png", icc_profile=profile)
    with pytest.warns(UserWarning, match=rf"a\.png': its colour profile cannot be used, .*{reason}.*read as sRGB"):
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), LEVELS)
    picture = read_picture(tmp_path / "a.png")
    assert any(reason in note for note in picture.notes)
    assert picture.metadata.profile is None


def test_a_profile_may_be_kept(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.png", icc_profile=rgb_profile())
    picture = read_picture(tmp_path / "a.png", keep_profile=True)
    np.testing.assert_array_equal(to_uint8(picture.colours), LEVELS)
    assert picture.metadata.profile == rgb_profile()
    Image.fromarray(LEVELS).convert("CMYK").save(tmp_path / "a.tif", icc_profile=cmyk_profile((50.0, 30.0, 20.0)))
    picture = read_picture(tmp_path / "a.tif", keep_profile=True)
    assert picture.notes == ("its colour profile cannot be kept and is converted to sRGB",)
    assert picture.metadata.profile == srgb_profile()
