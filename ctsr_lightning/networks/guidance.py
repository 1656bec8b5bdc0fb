"""Classifier-free guidance of a frozen denoiser away from a negative prompt."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.prompts.base import NoPrompt, Prompt


class Guidance(nn.Module):
    """Classifier-free guidance: ε = ε_neg + g (ε_c - ε_neg) (Ho and Salimans, 2022).

    The same holds for outputs that predict z_0 or v, as ε is affine in them.

    Args:
        strength: g; 1 is no guidance, and no second prediction.
        negative: Source of the negative prompt's embedding; not needed without guidance.
        prompt: Source of the prompt that is guided towards.

    Raises:
        ValueError: If there is guidance, but a prompt is missing.
    """

    def __init__(self, strength: float, negative: Prompt | None, prompt: Prompt) -> None:
        super().__init__()
        given = {"`prompt` of the network": prompt, "`negative_prompt`": negative}
        missing = [name for name, source in given.items() if source is None or isinstance(source, NoPrompt)]
        if strength != 1.0 and missing:
            raise ValueError(
                f"Expected a prompt and a negative one for guidance {strength:g}, found none as "
                f"{' and '.join(missing)}. Name it, or set `guidance` to 1, which is none."
            )
        self.strength = strength
        self.negative = None if strength == 1.0 or negative is None else Frozen(negative)

    def condition(self, embedding: Tensor | None, lq: Tensor, keys: list[str] | None = None) -> Tensor | None:
        """Embeddings for `predict`: with guidance those of the negative prompts before those of the prompts.

        Args:
            embedding: Prompt embeddings c, shape (B, L, D), or None.
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            Shape (2 B, L, D) with guidance, else `embedding`.
        """
        if self.negative is None or embedding is None:
            return embedding
        return torch.cat([self.negative(lq, keys).to(embedding.dtype), embedding])

    def predict(self, unet: UNet2DConditionModel, noisy: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """The UNet's output, guided; both predictions are made in one call.

        Args:
            unet: The denoiser.
            noisy: z_t, shape (B, C, h, w).
            timestep: Timesteps, shape (B,).
            condition: The result of `condition`.
        """
        if self.negative is None:
            return unet(noisy, timestep, condition).sample
        output = unet(torch.cat([noisy, noisy]), torch.cat([timestep, timestep]), condition).sample
        negative, positive = at_least_float32(output).chunk(2)  # g multiplies the rounding of their difference
        return negative + self.strength * (positive - negative)
