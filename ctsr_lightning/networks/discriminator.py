"""A discriminator on feature maps of a frozen network, without buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.networks.frozen import Frozen


class FeatureMaps(nn.Module, ABC):
    """Feature maps of images, frozen; gradients flow to the images."""

    channels: tuple[int, ...]
    """Channels of each map."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps.

        Args:
            images: RGB in [0, 1], shape (B, 3, H, W); values beyond are possible in a training.

        Returns:
            One tensor (B, C_k, H_k, W_k) per map, values of order 1.
        """


def normalized(features: Tensor) -> Tensor:
    """Features of root mean square 1 over channels."""
    return F.normalize(features, dim=1) * features.shape[1] ** 0.5


class SpectralConv2d(nn.Conv2d):
    """A convolution by W / σ_max(W), W as a matrix (outputs x rest).

    Spectral normalization (Miyato et al. 2018) with the exact singular value instead of a power iteration, whose
    vectors are buffers: a checkpoint of parameters alone then resumes bit for bit.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Convolve."""
        largest = torch.linalg.matrix_norm(self.weight.flatten(1), 2)
        return self._conv_forward(input, self.weight / largest, self.bias)


class Discriminator(nn.Module):
    """Convolutional heads on frozen feature maps (projected GAN; AddSR, CCSR v2): logits per place of every map.

    A head is 3x3, 3x3 and 1x1 spectrally normalized convolutions with leaky ReLU between. With a condition c it ends
    in features f and its logit is ⟨f, A c⟩ / √width (projection discriminator).

    Args:
        maps: The feature maps, frozen and absent from checkpoints.
        width: Channels of the heads.
        condition: Size of the vectors c that it is conditioned on; null for none.
    """

    def __init__(self, maps: FeatureMaps, width: int = 64, condition: int | None = None) -> None:
        super().__init__()
        self.maps, self.width = Frozen(maps), width
        self.heads = nn.ModuleList(
            nn.Sequential(
                SpectralConv2d(channels, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                SpectralConv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                SpectralConv2d(width, 1 if condition is None else width, 1),
            )
            for channels in maps.channels
        )
        self.projections = nn.ModuleList(
            nn.Linear(condition, width, bias=False) for _ in maps.channels if condition is not None
        )

    def forward(self, maps: list[Tensor], condition: Tensor | None = None) -> Tensor:
        """Judge images by their maps: large for photographs, small for restored images.

        Args:
            maps: Feature maps of the images, from `maps`.
            condition: c, shape (B, size), where it is conditioned.

        Returns:
            Logits of all maps and places, shape (B, N).
        """
        found = [head(features) for head, features in zip(self.heads, maps, strict=True)]
        if self.projections:
            if condition is None:
                raise ValueError("Expected a condition for a conditioned discriminator, found none. Give one.")
            vectors = [projection(condition)[:, :, None, None] for projection in self.projections]
            found = [(f * c).sum(dim=1) / self.width**0.5 for f, c in zip(found, vectors, strict=True)]
        return torch.cat([logits.flatten(1) for logits in found], dim=1)

    def detached(self, maps: list[Tensor], condition: Tensor | None = None) -> Tensor:
        """The same with weights detached: gradients reach the images only, not the heads."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        logits: Tensor = torch.func.functional_call(self, weights, (maps, condition))
        return logits
