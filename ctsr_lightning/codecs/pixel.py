"""Pixels as latents."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.diffusion.parametrization import at_least_float32


class PixelCodec(LatentCodec):
    """The identity: every square of pixels is a latent, so that white noise of latents is white noise of pixels.

    Args:
        factor: Side of a square in pixels, at least 1; a latent has 3 factor² channels.

    Raises:
        ValueError: If the factor is less than 1.
    """

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"Expected a factor of at least 1 pixel, found {factor}. Set `factor: 1`.")
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Pixels to channels; there is no posterior to sample from, so `sample` is refused."""
        if sample:
            raise ValueError("PixelCodec is deterministic: it has no posterior to sample from. Use sample=False.")
        return F.pixel_unshuffle(at_least_float32(image), self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Channels to pixels."""
        return F.pixel_shuffle(latent, self.factor)

    def adapted(self) -> nn.Module:
        """The codec itself, which has nothing to adapt."""
        return self
