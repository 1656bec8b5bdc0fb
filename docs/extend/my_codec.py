"""A codec: pixels stacked along the channels, an exact latent space that needs no training."""

from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.codecs.codec import LatentCodec


class ShuffleCodec(LatentCodec):
    """f x f pixels become one latent of 3 f² channels, and back, without loss.

    Args:
        factor: f, pixels per latent along each side.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Images in [-1, 1], shape (B, 3, H, W), to latents of shape (B, 3 f², H / f, W / f)."""
        return F.pixel_unshuffle(image, self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents to images in about [-1, 1]."""
        return F.pixel_shuffle(latent, self.factor)

    def adapted(self) -> nn.Module:
        """The module whose encoder may carry adapters."""
        return self
