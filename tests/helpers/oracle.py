"""A guided denoiser that knows the clean latent, and remembers what it was shown."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.parametrization import Prediction, noise_from_clean
from ctsr_lightning.networks import GuidedDenoiser
from helpers import tiny


class Call(NamedTuple):
    """What a denoiser was shown."""

    noisy: Tensor
    timestep: Tensor
    guide: Tensor


class Oracle(GuidedDenoiser):
    """The exact prediction, and a constant error that is its only weight.

    Args:
        prediction: What it predicts.
        error: The error.
    """

    def __init__(self, prediction: Prediction = "v_prediction", error: float = 0.0) -> None:
        super().__init__(tiny.unet().requires_grad_(False))
        self.prediction, self.error = prediction, nn.Parameter(torch.tensor(error))
        self.clean = torch.zeros(())
        self.calls: list[Call] = []

    def forward(self, noisy: Tensor, timestep: Tensor, prompt: Tensor | None, guide: Tensor) -> Tensor:
        self.calls.append(Call(noisy, timestep, guide))
        alpha_bar = NoiseSchedule().alpha_bar(timestep, noisy)
        noise = noise_from_clean(noisy, self.clean, alpha_bar)
        v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * self.clean
        return (noise if self.prediction == "epsilon" else v) + self.error

    def for_inference(self) -> list[nn.Module]:
        return []
