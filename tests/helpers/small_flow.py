"""A small model with a slider that draws noise: t is one number per image, and tiles have to meet its strides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.codecs import LatentCodec
from ctsr_lightning.codecs.codec import unit_to_signed
from ctsr_lightning.models import ControlKind, RestorationModel

CHANNELS = 12


class ShuffleCodec(LatentCodec):
    """Pixels of 2 x 2 patches as channels, so that decoding a tile is cutting it out of the whole."""

    factor, channels = 2, CHANNELS

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        return F.pixel_unshuffle(image, 2)

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(latent, 2)

    def adapted(self) -> nn.Module:
        return self


class SmallFlow(RestorationModel):
    """z(t) = c + σ ε + (1 - t / 2) U(c + σ ε, c), U a convolution at every second latent and its way back.

    Args:
        sigma: σ.
    """

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        self.scale, self.codec, self.sigma = 4, ShuffleCodec(), sigma
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.down = nn.Conv2d(2 * CHANNELS, 16, 2, stride=2)
            self.up = nn.ConvTranspose2d(16, CHANNELS, 2, stride=2)

    @property
    def multiple(self) -> int:
        return 4

    @property
    def cell(self) -> int:
        return 2

    @property
    def control_kind(self) -> ControlKind:
        return "number"

    @property
    def random(self) -> bool:
        return True

    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        return self.codec.encode(unit_to_signed(F.interpolate(lq, scale_factor=self.scale)))

    def begin(self, shared: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(shared.shape[1:], generator=generator).to(shared)
        return torch.cat([shared + self.sigma * noise, shared], dim=1)

    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        self.check_control(control)
        start, _ = state.chunk(2, dim=1)
        return start + (1.0 - control / 2.0) * self.up(torch.tanh(self.down(state)))
