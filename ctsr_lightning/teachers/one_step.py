"""OSEDiff as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ctsr_lightning.diffusion.parametrization import to_noise
from ctsr_lightning.networks.adapters import without_adapters
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.teachers.base import Gradient, Noisy, Opinion, Teacher, opinion_in_latent


class OneStepTeacher(Teacher):
    """A one-step restorer: the realness teacher T_r (OSEDiff).

    Args:
        network: The trained restorer; give it its `weights`.
        score: Whose noise prediction is its score: its `own` UNet, as the paper writes, or the `base` prior beneath
            its adapters, as variational score distillation does. OSEDiff's UNet was trained at t = 999 alone, so its
            own answers at other t are out of distribution.

    Raises:
        ValueError: If `score` is `base` and the network has no adapters to switch off.
    """

    def __init__(self, network: OneStepStudent, score: Literal["own", "base"] = "own") -> None:
        super().__init__()
        if score == "base" and not any("lora_A" in name for name, _ in network.unet.named_parameters()):
            raise ValueError("score 'base' needs adapters over a base UNet; give the network `lora`, or use 'own'.")
        self.score = score
        self.frozen = Frozen(network)
        # A network of its own: adapters that were switched off for a while would be on again in the recomputation of
        # gradient checkpointing.
        self.base = Frozen(without_adapters(network.unet)) if score == "base" else None
        self.scale = network.scale

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""
        return self.frozen.network.multiple

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor | None:
        """The prompt embedding c."""
        with torch.no_grad():
            embedding: Tensor | None = self.frozen.network.prompt(lq, keys)
        return embedding

    def opinion(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],  # noqa: ARG002  # the interface
    ) -> Opinion:
        """The UNet's noise predictions, in the student's own space."""
        return opinion_in_latent(lambda noisy: self.predict_noise(noisy, condition), student, gt, gradient)

    def predict_noise(self, noisy: Noisy, condition: Tensor | None) -> Tensor:
        """The UNet's noise prediction at (z_t, t, c)."""
        network = self.frozen.network
        if self.base is None:
            return network.predict_noise(noisy.latent, noisy.timestep, condition)
        output = self.base(noisy.latent, noisy.timestep, condition).sample
        alpha_bar = network.schedule.alpha_bar(noisy.timestep, noisy.latent)
        return to_noise(output, noisy.latent, alpha_bar, network.prediction)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore in one step."""
        return self.frozen.network.restore(lq, keys)
