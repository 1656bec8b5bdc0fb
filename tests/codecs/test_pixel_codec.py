"""Pixels as latents."""

import pytest
import torch

from ctsr_lightning.codecs import PixelCodec


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_round_trip_is_exact(factor):
    codec, image = PixelCodec(factor), 2 * torch.rand(2, 3, 8, 16) - 1
    latent = codec.encode(image)
    assert latent.shape == (2, codec.channels, 8 // factor, 16 // factor)
    assert codec.channels == 3 * factor**2
    assert torch.equal(codec.decode(latent), image)
    assert sorted(latent.flatten().tolist()) == sorted(image.flatten().tolist())  # so white noise stays white


def test_pixels_of_a_square_are_one_latent():
    image = torch.zeros(1, 3, 4, 4)
    image[0, 1, 2:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    latent = PixelCodec(2).encode(image)
    assert latent[0, :, 1, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    assert latent.sum() == 10


def test_there_is_nothing_to_train_or_sample():
    codec = PixelCodec()
    assert not list(codec.parameters())
    assert codec.encode(torch.rand(1, 3, 2, 2).half()).dtype == torch.float32
    with pytest.raises(ValueError, match="deterministic"):
        codec.encode(torch.rand(1, 3, 2, 2), sample=True)
    with pytest.raises(ValueError, match="Expected a factor of at least 1 pixel, found 0"):
        PixelCodec(0)
