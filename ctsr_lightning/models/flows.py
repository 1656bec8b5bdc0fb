"""Models that restore by a flow (OFTSR): by several steps, or by one that takes a t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctsr_lightning.diffusion.sampling import noise_by_content, shared_noise
from ctsr_lightning.models.parts import Part, bare_codec, bare_unet
from ctsr_lightning.models.restoration_model import ControlKind, RestorationModel
from ctsr_lightning.networks.flow_network import FlowNetwork
from ctsr_lightning.networks.lora import merged
from ctsr_lightning.networks.velocity import TIME_SCALE


class _FlowModel(RestorationModel):
    """What both models share: c, which no t changes, and x_0, drawn once for the whole image.

    Args:
        network: The flow.
    """

    method = "OFTSR"

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network
        self.scale, self.codec = network.scale, network.codec

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return self.network.multiple

    @property
    def cell(self) -> int:
        """Latents that the UNet's coarsest level has as one."""
        return self.network.cell

    @property
    def random(self) -> bool:
        """Results depend on the noise in x_0; at t = 1 those of a perfect network do not."""
        return True

    @torch.no_grad()
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """Condition c = E(up(x_LR)), shape (B, C, h', w')."""
        return self.network.degraded(lq)

    def begin(self, shared: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x_0 and behind it, along the channels, c, shape (B, 2 C, h', w')."""
        return torch.cat([self.network.start(shared, shared_noise(shared, generator)), shared], dim=1)

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

    def prepare(self, dtype: torch.dtype) -> list[tuple[nn.Module, torch.dtype]]:
        """Codec and UNet."""
        self.network.unet = merged(self.network.unet)
        return [*super().prepare(dtype), (self.network.unet, dtype)]

    @torch.no_grad()
    def parts(self, lq: Tensor) -> list[Part]:
        """Encoder, UNet and decoder."""
        state = self.begin(self.shared(lq))
        x_0, condition = state.chunk(2, dim=1)
        time = torch.ones(len(lq), dtype=x_0.dtype, device=x_0.device)
        encoder, decoder = self.codec.halves()
        encode, decode = bare_codec(self.codec, lq.new_zeros(len(lq), 3, *(s * self.scale for s in lq.shape[-2:])), x_0)
        unet = bare_unet(self.network.unet, state, TIME_SCALE * time, None)
        return [
            Part("encode c = E(up(x))", encoder or [self.codec], lambda: self.shared(lq), encode),
            Part("UNet", [self.network.unet], lambda: self.network.velocity(x_0, time, condition), unet, per_t=True),
            Part("decode", decoder or [self.codec], lambda: self.network.decode(x_0), decode, per_t=True),
        ]


class OneStepFlow(_FlowModel):
    """OFTSR at inference: x̂ = D(x_0 + v_φ(x_0, c, τ)), one pass per value of the control t = 1 - τ (Sec. 3.2).

    The network's time τ is 1 at the realistic end, the house's control t is 1 at the faithful one.

    Args:
        network: The flow, as it predicts mean velocities once it is distilled (`FlowNetwork.mean_velocity`).
    """

    @property
    def control_kind(self) -> ControlKind:
        """One t per image, as it enters the network's time embedding."""
        return "number"

    @torch.no_grad()
    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """Latent x_0 + v_φ(x_0, c, 1 - t), float32 or better."""
        self.check_control(control)
        x_0, condition = state.chunk(2, dim=1)
        time = torch.full((len(state),), 1.0 - float(control), dtype=state.dtype, device=state.device)
        return x_0 + self.network.mean_velocity(x_0, time, condition)


class MultiStepFlow(_FlowModel):
    """A flow followed from τ = 0 to 1 by its solver: OFTSR's teacher. It has no t.

    Args:
        network: The flow.
        steps: Steps of the solver; null takes the network's. One step of Euler's is plain regression.
    """

    def __init__(self, network: FlowNetwork, steps: int | None = None) -> None:
        super().__init__(network)
        if steps is not None and steps < 1:
            raise ValueError(f"Expected at least 1 step, found {steps}.")
        self.steps = network.steps if steps is None else steps

    @property
    def control_kind(self) -> ControlKind:
        """None: what its `steps` change is realism, but every number of them takes all passes anew."""
        return "none"

    @torch.no_grad()
    def latent_at(self, state: Tensor, control: float | Tensor = 0.0) -> Tensor:
        """Latent x_1, float32 or better."""
        self.check_control(control)
        x_0, condition = state.chunk(2, dim=1)
        return self.network.follow(x_0, condition, self.steps)
