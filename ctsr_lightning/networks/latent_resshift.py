"""ResShift's denoiser in the student's latent space."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.diffusion.sampling import noise_by_content, sample_resshift
from ctsr_lightning.diffusion.schedule import ResShiftSchedule
from ctsr_lightning.images import upsample
from ctsr_lightning.weights.reading import load_weights

TIME_RANGE = 1000.0
"""Steps are shown to the UNet spread over the range that its time embedding resolves, not as the raw 0, 1, 2, …"""


class LatentResShift(nn.Module):
    """A network that restores by walking ResShift's chain from the degraded latent to the clean one.

    It predicts w_0 from the scaled w_τ with w_y beside it, so its input has twice the latent's channels.

    Args:
        unet: The denoiser: 2 C channels in, C out.
        codec: The autoencoder, never trained here.
        scale: Enlargement, an integer >= 1.
        schedule: The chain.
        residual_std: Standard deviation of w_0 - w_y, about 0.3 in a latent space of unit variance. The UNet then
            learns what the best linear estimate of w_0 lacks, which a small network needs; null lets it predict w_0 as
            it stands, as ResShift does.
        temperature: Factor in [0, 1] on the noise of the chain when restoring, see `sample_resshift`.
        steps: Steps of the chain to walk when restoring: with 1 the result is the first prediction, made from w_y and
            noise alone; null walks the whole chain. A network trained on the whole chain can restore in fewer steps as
            it stands, the faster and, where it is small, the more faithfully.
        weights: Trained weights to start from: a `weights.safetensors` or checkpoint of a residual-shift training.

    Raises:
        ValueError: If the channels do not fit, the temperature leaves [0, 1], or the chain has not so many steps.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        codec: LatentCodec,
        scale: int = 4,
        schedule: ResShiftSchedule | None = None,
        residual_std: float | None = None,
        temperature: float = 1.0,
        steps: int | None = None,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        found = (unet.config.in_channels, unet.config.out_channels)
        if found != (2 * codec.channels, codec.channels):
            raise ValueError(
                f"Expected a UNet with {2 * codec.channels} channels in (w_τ and w_y) and {codec.channels} out for "
                f"this codec, found {found[0]} in and {found[1]} out."
            )
        if not 0.0 <= temperature <= 1.0:
            raise ValueError(
                f"Expected a temperature in [0, 1], found {temperature}: 1 samples as ResShift does, 0 follows means."
            )
        self.unet, self.codec, self.scale, self.residual_std = unet, codec, scale, residual_std
        self.temperature = temperature
        self.schedule = schedule or ResShiftSchedule()
        if steps is not None and not 1 <= steps <= self.schedule.num_steps:
            raise ValueError(
                f"Expected steps from 1 to {self.schedule.num_steps}, the length of the chain, or null for the whole "
                f"chain, found {steps}."
            )
        self.steps = steps
        codec.requires_grad_(False)
        if weights is not None:
            load_weights(self, weights, prefix="network.", only_trainable=True)

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return int(self.codec.factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def degraded(self, lq: Tensor) -> Tensor:
        """w_y = E(up(x_LR)) for images in [0, 1]."""
        return self.encode(upsample(lq, self.scale))

    def encode(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1]: w = E(x), without gradient."""
        with torch.no_grad():
            return self.codec.encode(unit_to_signed(image))

    def predict_clean(self, shifted: Tensor, step: Tensor, degraded: Tensor) -> Tensor:
        """ŵ_0, float32.

        Args:
            shifted: w_τ, shape (B, C, h, w).
            step: Steps τ, shape (B,).
            degraded: w_y.
        """
        shown = torch.cat([self.schedule.scale_input(shifted, step), degraded], dim=1)
        output = at_least_float32(self.unet(shown, step * (TIME_RANGE / self.schedule.num_steps), None).sample)
        if self.residual_std is None:
            return output
        return self.schedule.linear_estimate(shifted, degraded, step, self.residual_std) + output

    def restore(self, lq: Tensor, seed: int | None = 0) -> Tensor:
        """Restore by `steps` steps of the chain.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            seed: Seed of the noise. An image's noise depends on the seed and its own pixels alone, not on its batch or
                the device, and differs from image to image; a tile of a large image counts as an image. None draws
                fresh noise.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
        degraded = self.degraded(lq)
        clean = sample_resshift(
            lambda shifted, step: self.predict_clean(shifted, step, degraded),
            degraded,
            self.schedule,
            noise_by_content(lq, seed),
            self.temperature,
            self.steps,
        )
        return signed_to_unit(self.codec.decode(clean)).clamp(0.0, 1.0)
