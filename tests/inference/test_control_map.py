"""Maps of t from masks, and from the photograph alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ctsr_lightning.images import write_image
from ctsr_lightning.inference.control_map import automatic_map, fit_map, read_map


def grass(height: int = 64, width: int = 96) -> Tensor:
    """A texture without direction: smoothed noise."""
    noise = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    return (0.3 + 0.4 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1)).expand(1, 3, -1, -1)


def lettered() -> Tensor:
    """The texture, with dark letters on a light ground in its left half."""
    image = grass().clone()
    page = Image.new("L", (40, 64), 230)
    ImageDraw.Draw(page).text((2, 10), "abc\ndef", fill=20, font=ImageFont.load_default(16))
    image[..., 4:44] = torch.tensor(list(page.tobytes())).view(64, 40) / 255
    return image


def test_letters_are_faithful_and_texture_realistic() -> None:
    control = automatic_map(lettered())
    assert control.shape == (1, 1, 64, 96)
    assert control[..., 16:40, 8:28].mean() > 0.7
    assert control[..., 60:].mean() < 0.3


def test_a_strong_edge_is_faithful() -> None:
    image = grass().clone()
    image[..., :32, :] += 0.35
    control = automatic_map(image)
    assert control[..., 30:34, :].mean() > 0.6
    assert control[..., 50:, :].mean() < 0.3


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (40, 3)])
def test_any_image_has_a_map(size: tuple[int, int]) -> None:
    control = automatic_map(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert control.shape == (2, 1, *size)
    assert 0 <= control.min() <= control.max() <= 1


def test_a_flat_image_is_realistic() -> None:
    assert automatic_map(torch.full((1, 3, 20, 20), 0.5)).max() < 1e-3


def test_images_of_a_batch_have_maps_of_their_own() -> None:
    both = automatic_map(torch.cat([grass(), lettered()]))
    torch.testing.assert_close(both[1:], automatic_map(lettered()))


def test_white_is_faithful(tmp_path: Path) -> None:
    mask = torch.zeros(3, 8, 12)
    mask[:, :, 6:] = 1.0
    write_image(tmp_path / "mask.png", mask)
    control = fit_map(read_map(tmp_path / "mask.png", (4, 6)), (16, 24))
    assert control.shape == (1, 1, 16, 24)
    assert control[..., :10].max() < 0.01
    assert control[..., 14:].min() > 0.99
    with pytest.raises(ValueError, match=r"shape, 8x8 or a multiple, found 12x8"):
        read_map(tmp_path / "mask.png", (8, 8))
