"""The call of a UNet, whatever type its weights have."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from torch import Tensor

from ctsr_lightning.diffusion.parametrization import at_least_float32


def run_unet(unet: UNet2DConditionModel, latent: Tensor, timestep: Tensor, prompt: Tensor | None) -> Tensor:
    """The output of a UNet, which computes in the type of its weights; float32 or better, for closed forms.

    Args:
        unet: The UNet.
        latent: Its input, shape (B, C, h, w).
        timestep: Timesteps, shape (B,).
        prompt: Embeddings c, shape (B, L, D), or None.
    """
    dtype = next(unet.parameters()).dtype
    output = unet(latent.to(dtype), timestep, None if prompt is None else prompt.to(dtype)).sample
    return at_least_float32(output)
