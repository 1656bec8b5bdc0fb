"""Small folders of photos and pairs."""

import pytest

from ctsr_lightning.images import write_image
from helpers.drawn_photos import draw_photo


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of 48x64 pixels, two of them in a sub-folder."""
    folder = tmp_path / "photos"
    for number in range(12):
        name = f"sub/{number:02d}" if number >= 10 else f"{number:02d}"
        write_image(folder / f"{name}.png", draw_photo(48, 64, number))
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Six pairs at scale 4, of 64x48 ground-truth pixels: the low-quality image is every fourth pixel."""
    for number in range(6):
        gt = draw_photo(48, 64, 100 + number)
        write_image(tmp_path / "gt" / f"p{number}.png", gt)
        write_image(tmp_path / "lq" / f"p{number}.png", gt[:, ::4, ::4])
    return tmp_path / "lq", tmp_path / "gt"
