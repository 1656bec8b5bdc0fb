"""A flow distilled into one step, with a slider (OFTSR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.control import check_range
from ctsr_lightning.diffusion.sampling import shared_noise
from ctsr_lightning.networks.flow_network import FlowNetwork


class OneStepFlow(nn.Module):
    """OFTSR at inference: x̂ = D(x_0 + v_φ(x_0, c, τ)), one pass per value of the control t = 1 - τ.

    The network's time τ is 1 at the realistic end, the house's control t is 1 at the faithful one.

    Args:
        network: The distilled network, which predicts mean velocities.
    """

    control_kind: Literal["none", "number", "map"] = "number"
    """One t per image: it enters the network's time embedding."""
    random = True
    """Restorations depend on noise, except, for a perfect network, at t = 1."""

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
        """Sides and places of windows of latents must be multiples of this many latents."""
        return self.network.cell

    @torch.no_grad()
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """Condition c = E(up(x_LR)), shape (B, C, h', w').

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w); scale * h and scale * w are multiples of `multiple`.
            keys: Not needed.
        """
        return self.network.degraded(lq)

    @torch.no_grad()
    def begin(self, shared: Tensor, generator: torch.Generator | None) -> Tensor:
        """x_0 and behind it, along the channels, c.

        Args:
            shared: c on the grid of the whole image.
            generator: Source of ε on the CPU, the same ε for all images of the batch; None for the global one.
        """
        return torch.cat([self.network.start(shared, shared_noise(shared, generator)), shared], dim=1)

    @torch.no_grad()
    def at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """Restore at t, images in [0, 1].

        Args:
            state: x_0 and c, or a window of both.
            control: t in [0, 1], a single number.

        Raises:
            ValueError: If t is not one number in [0, 1].
        """
        if isinstance(control, Tensor) and control.numel() != 1:
            raise ValueError(
                f"Expected one number t, as it enters the network's time embedding, found a map of shape "
                f"{tuple(control.shape)}. Restore at several t and blend the images."
            )
        (value,) = check_range([float(control)])
        x_0, condition = state.chunk(2, dim=1)
        time = torch.full((len(state),), 1.0 - value, dtype=state.dtype, device=state.device)
        return self.network.decode(x_0 + self.network.mean_velocity(x_0, time, condition))

    def sweep(self, lq: Tensor, controls: Sequence[float], seed: int = 0) -> list[Tensor]:
        """Restore at several t from one x_0.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            controls: Values of t.
            seed: Seed of the noise.
        """
        state = self.begin(self.shared(lq), torch.Generator().manual_seed(seed))
        return [self.at(state, control) for control in controls]
