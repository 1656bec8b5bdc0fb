"""Training of a latent codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.modules.base import RestorationModule


class CodecTraining(RestorationModule):
    """Train a codec to give back what it is shown: ‖D(E(x) + σ n) - x‖₁ with n ~ N(0, I).

    The noise on the latents makes the decoder tolerant of the small errors of a restorer.

    Args:
        codec: The autoencoder.
        latent_noise: σ, the noise on the latents.
        scale: Enlargement of the data that it is validated with; 1 validates the round trip itself.
        **kwargs: Optimizer and scheduler.
    """

    validates_losses = True

    def __init__(self, codec: LatentCodec, latent_noise: float = 0.03, scale: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codec, self.latent_noise, self.scale = codec, latent_noise, scale

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The round trip's absolute error, on images in [-1, 1]."""
        image = unit_to_signed(self.ground_truth(batch))
        latent = self.codec.encode(image)
        noisy = latent + self.latent_noise * self.draws.normal(latent)
        return {"codec/l1": F.l1_loss(self.codec.decode(noisy), image)}

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """D(E(up(x)))."""
        from ctsr_lightning.images import upsample

        image = unit_to_signed(upsample(lq, self.scale))
        return signed_to_unit(self.codec.decode(self.codec.encode(image))).clamp(0.0, 1.0)
