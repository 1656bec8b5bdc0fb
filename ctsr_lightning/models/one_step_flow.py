"""A flow distilled into one step, with a slider (OFTSR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.control import check_range
from ctsr_lightning.diffusion.sampling import noise_by_content, shared_noise
from ctsr_lightning.networks.flow_network import FlowNetwork


class OneStepFlow(nn.Module):
    """OFTSR at inference: x̂ = D(x_0 + v_φ(x_0, c, τ)), one pass per value of the control t = 1 - τ (Sec. 3.2).

    The network's time τ is 1 at the realistic end, the control t at the faithful one.

    Args:
        network: The flow, as it predicts mean velocities once it is distilled (`FlowNetwork.mean_velocity`).
    """

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def scale(self) -> int:
        """Enlargement."""
        return self.network.scale

    @property
    def codec(self) -> LatentCodec:
        """The autoencoder."""
        return self.network.codec

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return self.network.multiple

    @property
    def cell(self) -> int:
        """Tiles of `at` start and end at multiples of this many latents."""
        return self.network.cell

    @property
    def control_kind(self) -> Literal["none", "number", "map"]:
        """One t per image, as it enters the network's time embedding."""
        return "number"

    @property
    def random(self) -> bool:
        """Results depend on the noise in x_0; at t = 1 those of a perfect network do not."""
        return True

    @torch.no_grad()
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """Condition c = E(up(x_LR)), shape (B, C, h', w').

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w); scale * h and scale * w are multiples of `multiple`.
            keys: Not needed.
        """
        return self.network.degraded(lq)

    def begin(self, shared: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x_0 and behind it, along the channels, c.

        Args:
            shared: c of the whole image.
            generator: Source of ε on the CPU, the same ε for all images of the batch; None for the global one.
        """
        return torch.cat([self.network.start(shared, shared_noise(shared, generator)), shared], dim=1)

    @torch.no_grad()
    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """Latent x_0 + v_φ(x_0, c, 1 - t), float32 or better.

        Args:
            state: x_0 and c, or a tile of both.
            control: t in [0, 1], a single number.

        Raises:
            ValueError: If t is not one number in [0, 1].
        """
        if isinstance(control, Tensor) and control.dim() > 0:
            raise ValueError(
                f"Expected a number t for {type(self).__name__}, found a map of shape {tuple(control.shape)}: t enters "
                "the time embedding of its network, of which an image has one. Give one number for the whole image."
            )
        (value,) = check_range([float(control)])
        x_0, condition = state.chunk(2, dim=1)
        time = torch.full((len(state),), 1.0 - value, dtype=state.dtype, device=state.device)
        return x_0 + self.network.mean_velocity(x_0, time, condition)

    @torch.no_grad()
    def at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """Image of `latent_at`, clipped to [0, 1]."""
        return self.network.decode(self.latent_at(state, control))

    def sweep(
        self, lq: Tensor, controls: Sequence[float | Tensor], keys: list[str] | None = None, seed: int = 0
    ) -> list[Tensor]:
        """Restore at several t from one x_0, without tiles.

        Args:
            lq: Low-quality images as in `shared`.
            controls: Values of t.
            keys: Not needed.
            seed: Seed of the noise, which depends on it and the image's own pixels alone, see `noise_by_content`.
        """
        condition = self.shared(lq, keys)
        state = torch.cat([self.network.start(condition, noise_by_content(lq, seed)(condition)), condition], dim=1)
        return [self.at(state, control) for control in controls]
