"""OSEDiff as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import to_noise
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.guidance import Guidance
from ctsr_lightning.networks.lora import without_adapters
from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets, latent_space_targets


class OneStepTeacher(Teacher):
    """A one-step restorer: the realness teacher T_r (OSEDiff).

    Args:
        network: The trained restorer; give it its `weights`.
        score: Whose noise prediction is its score: its `own` UNet, as the paper writes; the `base` prior beneath its
            adapters, as variational score distillation does; or a UNet given here, such as the one that a
            `PriorTraining` training has made for a restorer without adapters. A one-step UNet was trained at one t
            alone (OSEDiff: 999), so its own predictions at other t are out of distribution. A UNet given here works in
            the network's latent space, and predicts what the network's `prediction` says.
        guidance: Classifier-free guidance of the score (OSEDiff, of its prior: 7.5), ε = ε_neg + g (ε_c - ε_neg);
            1 is none.
        negative_prompt: Source of the negative prompt that guidance leads away from.

    Raises:
        ValueError: If `score` is `base` and the network has no adapters to switch off, or a UNet for another latent
            space, or there is guidance, but no prompt or no negative one.
    """

    def __init__(
        self,
        network: OneStepStudent,
        score: Literal["own", "base"] | UNet2DConditionModel = "own",
        guidance: float = 1.0,
        negative_prompt: Prompt | None = None,
    ) -> None:
        super().__init__()
        if score == "base" and not any("lora_A" in name for name, _ in network.unet.named_parameters()):
            raise ValueError(
                "score 'base' needs adapters over a base UNet; give the network `lora`, or use 'own', or a UNet."
            )
        self.frozen = Frozen(network)
        # A network of its own: adapters that were switched off for a while would be on again in the recomputation of
        # gradient checkpointing.
        prior = without_adapters(network.unet) if score == "base" else score
        self.prior = None if isinstance(prior, str) else Frozen(_checked(prior, network.codec.channels))
        self.guidance = Guidance(guidance, negative_prompt, network.prompt)
        self.scale = network.scale

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""
        return self.frozen.network.multiple

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor | None:
        """The prompt embedding c; with guidance that of the negative prompt before it."""
        with torch.no_grad():
            return self.guidance.condition(self.frozen.network.prompt(lq, keys), lq, keys)

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],  # noqa: ARG002  # the interface
    ) -> TeacherTargets:
        """The score's noise predictions, in the student's own space."""
        return latent_space_targets(lambda noisy: self.predict_noise(noisy, condition), student, gt, gradient)

    def predict_noise(self, noisy: Noisy, condition: Tensor | None) -> Tensor:
        """The score's noise prediction at (z_t, t, c)."""
        network = self.frozen.network
        unet = network.unet if self.prior is None else self.prior.network
        output = self.guidance.predict(unet, noisy.latent, noisy.timestep, condition)
        return to_noise(output, noisy.latent, noisy.alpha_bar, network.prediction)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore in one step."""
        return self.frozen.network.restore(lq, keys=keys)


def _checked(unet: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """A UNet that takes and gives latents of so many channels."""
    found = (unet.config.in_channels, unet.config.out_channels)
    if found != (channels, channels):
        raise ValueError(
            f"Expected as score a UNet with {channels} channels in and out, those of the network's latents, found "
            f"{found[0]} in and {found[1]} out. Give the prior that the network was distilled from."
        )
    return unet
