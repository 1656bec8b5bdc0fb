"""The latent velocity field of stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.networks.denoiser import run_unet
from ctsr_lightning.networks.lora import LoRA, add_named_adapter, keep_adapters_of
from ctsr_lightning.networks.sharing import refuse_shared
from ctsr_lightning.weights.reading import load_weights

VelocityStart = Literal["base", "student"]
"""Where the velocity's UNet starts: as it was loaded, or as S_1, whose adapters it keeps, frozen, beside its own."""
TIME_SCALE = 999.0
"""t in [0, 1] is shown to the UNet as 999 t, the range that its time embedding was trained on."""


class VelocityField(nn.Module):
    """v(z_t, t, c): where the realistic latent has to go to become the faithful one (Eq. 5).

    The UNet's output passes a 1x1 convolution that starts at zero, so that the untrained field is zero everywhere and
    the untrained stage 2 is the identity.

    Args:
        unet: The same UNet that the student is built on.
        lora: Its own adapter, named `velocity`, which freezes the base; null trains every weight.
        condition_on_lq: Also show z_L, through a 1x1 convolution that starts at zero. Not in the paper.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        weights: Trained weights to start from: a `weights.safetensors` or checkpoint of stage 2.

    Raises:
        ValueError: If the UNet is to be trained as a whole though it was loaded with `share`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        lora: LoRA | None = None,
        condition_on_lq: bool = False,
        gradient_checkpointing: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        if lora is not None:
            add_named_adapter(unet, lora, "velocity")
        else:
            refuse_shared(unet, "lora")
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        channels = unet.config.out_channels
        self.head = nn.Conv2d(channels, channels, 1)
        self.lq_projection = nn.Conv2d(channels, channels, 1) if condition_on_lq else None
        for layer in self.zero_layers():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # Conv2d types an existing bias as optional
        if weights is not None:
            load_weights(self, weights, prefix="velocity.", only_trainable=True)

    def begin_as(self, student: UNet2DConditionModel) -> None:
        """Begin as S_1 over the same base: its adapters come along, frozen, beside the field's own one.

        Args:
            student: S_1's UNet, with the weights that it was trained to.

        Raises:
            ValueError: If one of the two UNets has no adapters. Give `unet` S_1's weights then.
        """
        keep_adapters_of(self.unet, student)

    def zero_layers(self) -> list[nn.Conv2d]:
        """The layers that start at zero: the head, and the projection of z_L if there is one."""
        return [self.head] if self.lq_projection is None else [self.head, self.lq_projection]

    def forward(self, latent: Tensor, control: Tensor, prompt: Tensor | None, lq_latent: Tensor) -> Tensor:
        """Evaluate the field.

        Args:
            latent: z_t, shape (B, C, h, w).
            control: t in [0, 1], shape (B,).
            prompt: Embeddings c, shape (B, L, D), or None.
            lq_latent: z_L; used only with `condition_on_lq`.

        Returns:
            The velocity, shape (B, C, h, w), float32.
        """
        shown = latent if self.lq_projection is None else latent + self.lq_projection(lq_latent)
        output = run_unet(self.unet, shown, TIME_SCALE * control, prompt)
        velocity: Tensor = self.head(output)
        return velocity.float() if velocity.dtype != latent.dtype else velocity
