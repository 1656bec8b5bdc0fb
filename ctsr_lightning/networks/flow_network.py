"""The velocity of a noise-augmented conditional flow (OFTSR)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.diffusion.flow import GaussianFlow, Solver, expand, integrate, perturb
from ctsr_lightning.diffusion.sampling import noise_by_content
from ctsr_lightning.images import upsample
from ctsr_lightning.networks.denoiser import run_unet
from ctsr_lightning.networks.velocity import TIME_SCALE
from ctsr_lightning.weights.reading import load_weights


class FlowNetwork(nn.Module):
    """A network that restores by following a flow from the noised condition to the clean latent (OFTSR, Sec. 3.1).

    c = E(up(x_LR)); x_0 = √(1-σ²) c + σ ε; dx/dτ = v(x, c, τ) from τ = 0 to 1; x̂ = D(x_1).

    Args:
        unet: The network: 2 C channels in, for x and c, and C out. It is shown 999 τ as its timestep.
        codec: The autoencoder, never trained here; `PixelCodec` for the paper's pixel space.
        scale: Enlargement, an integer >= 1.
        sigma: σ in (0, 1]; a value near the standard deviation of x_1 given c spreads the change over the whole flow.
        residual_std: S, the standard deviation of x_1 - c, a number or one per channel of the latent. The UNet then
            learns what the flow lacks that would be right if x_1 - c were Gaussian: it is shown the deviation
            (x - E x_τ) / √Σ_τ in place of x and its output is scaled by S σ / √Σ_τ, so that both are of order 1 at
            every τ, as Karras et al. (2022) do for diffusion. Null lets it see x and predict v as they stand, as the
            paper does.
        steps: Steps of the solver when restoring.
        solver: The solver when restoring; all but `euler` take two evaluations per step.
        weights: Trained weights to start from: a `weights.safetensors` or checkpoint of a flow, or of a one-step model
            distilled from one.

    Raises:
        ValueError: If the channels do not fit, σ leaves (0, 1], `residual_std` is not positive, or steps are fewer than
            1.
    """

    residual_std: Tensor | None

    def __init__(
        self,
        unet: UNet2DConditionModel,
        codec: LatentCodec,
        scale: int = 4,
        sigma: float = 0.2,
        residual_std: float | list[float] | None = None,
        steps: int = 8,
        solver: Solver = "midpoint",
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        found = (unet.config.in_channels, unet.config.out_channels)
        if found != (2 * codec.channels, codec.channels):
            raise ValueError(
                f"Expected a UNet with {2 * codec.channels} channels in (x and c) and {codec.channels} out for this "
                f"codec, found {found[0]} in and {found[1]} out. Configure both for the same latent space."
            )
        if not 0.0 < sigma <= 1.0:
            raise ValueError(f"Expected sigma in (0, 1], found {sigma}. Without noise a flow is plain regression.")
        if steps < 1:
            raise ValueError(f"Expected at least 1 step, found {steps}. Set `steps: 1` for plain regression.")
        self.unet, self.codec, self.scale = unet, codec, scale
        self.sigma, self.steps = sigma, steps
        self.solver: Solver = solver
        self.register_buffer("residual_std", _per_channel(residual_std, codec.channels), persistent=False)
        codec.requires_grad_(False)
        if weights is not None:
            load_weights(self, weights, "student.network.", only_trainable=True)

    @property
    def cell(self) -> int:
        """Sides of a latent must be multiples of this many latents, which the UNet's coarsest level has as one."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return self.codec.factor * self.cell

    @property
    def linear(self) -> GaussianFlow | None:
        """The Gaussian flow that the UNet corrects, if `residual_std` is known."""
        return None if self.residual_std is None else GaussianFlow(self.sigma, self.residual_std)

    def degraded(self, lq: Tensor) -> Tensor:
        """Condition c = E(up(x_LR)) for images in [0, 1]."""
        return self.encode(upsample(lq, self.scale))

    def encode(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1]: x = E(image), without gradient."""
        with torch.no_grad():
            return self.codec.encode(unit_to_signed(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode to images clipped to [0, 1]."""
        return signed_to_unit(self.codec.decode(latent)).clamp(0.0, 1.0)

    def start(self, condition: Tensor, noise: Tensor) -> Tensor:
        """x_0 = √(1-σ²) c + σ ε."""
        return perturb(condition, noise, self.sigma)

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """v(x_τ, c, τ), float32 or better.

        Args:
            x: x_τ, shape (B, C, h, w).
            time: τ in [0, 1], shape (B,).
            condition: c.
        """
        linear = self.linear
        if linear is None:
            return self._output(x, time, condition)
        output = self._output(linear.deviation(x, time, condition, condition), time, condition)
        return linear.velocity(x, time, condition, condition) + linear.remainder(expand(time, x)) * output

    def mean_velocity(self, x_0: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Mean velocity (x_τ - x_0) / τ from 0 to τ, which at τ = 0 is v(x_0, c, 0), float32 or better.

        What a one-step model predicts; the UNet has to be distilled for it.

        Args:
            x_0: Start, shape (B, C, h, w).
            time: τ in [0, 1], shape (B,).
            condition: c.
        """
        linear = self.linear
        if linear is None:
            return self._output(x_0, time, condition)
        output = self._output(linear.deviation(x_0, torch.zeros_like(time), condition, condition), time, condition)
        return linear.mean_velocity(x_0, time, condition, condition) + linear.std * output

    def _output(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        return run_unet(self.unet, torch.cat([x, condition], dim=1), TIME_SCALE * time, None)

    @torch.no_grad()
    def restore(self, lq: Tensor, seed: int | None = 0) -> Tensor:
        """Restore by `steps` steps of the solver.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            seed: Seed of the noise, which depends on it and the image's own pixels alone, see `noise_by_content`. None
                draws fresh noise.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
        condition = self.degraded(lq)
        x_0 = self.start(condition, noise_by_content(lq, seed)(condition))
        return self.decode(self.follow(x_0, condition))

    def follow(self, x_0: Tensor, condition: Tensor, steps: int | None = None) -> Tensor:
        """Latent x_1 where the flow leads from x_0.

        Args:
            x_0: Start, shape (B, C, h, w).
            condition: c.
            steps: Steps of the solver; null takes the network's.
        """
        return integrate(lambda x, time: self.velocity(x, time, condition), x_0, steps or self.steps, self.solver)


def _per_channel(std: float | list[float] | None, channels: int) -> Tensor | None:
    """Standard deviations that broadcast against latents, shape (1, 1, 1) or (C, 1, 1)."""
    if std is None:
        return None
    values = std if isinstance(std, list) else [std]
    if len(values) not in {1, channels} or not all(value > 0 for value in values):
        raise ValueError(
            f"Expected residual_std > 0, one number or {channels}, found {std}. Set it to null to leave it out."
        )
    return torch.tensor(values).view(-1, 1, 1)
