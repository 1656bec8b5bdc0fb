"""Denoisers that are guided by the latent of an image (CCSR, AddSR)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.networks.denoiser import run_unet
from ctsr_lightning.networks.lora import LoRA, add_unet_adapters, merged
from ctsr_lightning.networks.sharing import refuse_shared


class GuidedDenoiser(nn.Module, ABC):
    """f(z_t, t, c, g): a denoiser that sees a second latent g, the guide, on the grid of z_t.

    Untrained it is the UNet alone, bit for bit: what g passes through starts at zero.

    Args:
        unet: The UNet.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
    """

    def __init__(self, unet: UNet2DConditionModel, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.unet = unet
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()

    @property
    def channels(self) -> int:
        """C, of z_t, of g and of the output."""
        return int(self.unet.config.out_channels)

    @property
    def cell(self) -> int:
        """Sides of a latent must be multiples of this many latents, which the UNet's coarsest level has as one."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @abstractmethod
    def forward(self, noisy: Tensor, timestep: Tensor, prompt: Tensor | None, guide: Tensor) -> Tensor:
        """The prediction, float32 or better.

        Args:
            noisy: z_t, shape (B, C, h, w).
            timestep: Timesteps, shape (B,).
            prompt: Embeddings c, shape (B, L, D), or None.
            guide: g, shape (B, C, h, w).
        """

    @abstractmethod
    def for_inference(self) -> list[nn.Module]:
        """Merge adapters, in place, and list the networks."""


class GuidedByInput(GuidedDenoiser):
    """The guide enters by a convolution G beside the UNet's first one: conv_in(z_t) + G(g).

    Args:
        unet: The UNet; its first convolution is replaced by the two.
        lora: Adapters, which freeze the base; null trains every weight.
        gradient_checkpointing: As in `GuidedDenoiser`.

    Raises:
        ValueError: If the UNet is to be trained as a whole though it was loaded with `share`.
    """

    def __init__(
        self, unet: UNet2DConditionModel, lora: LoRA | None = None, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__(unet, gradient_checkpointing)
        if lora is not None:
            add_unet_adapters(unet, lora)
        else:
            refuse_shared(unet, "lora")
        unet.conv_in = _GuidedConvolution(unet.conv_in, _zero_convolution(unet))

    def forward(self, noisy: Tensor, timestep: Tensor, prompt: Tensor | None, guide: Tensor) -> Tensor:
        """The UNet's output."""
        return run_unet(self.unet, torch.cat([noisy, guide.to(noisy.dtype)], dim=1), timestep, prompt)

    def for_inference(self) -> list[nn.Module]:
        """The UNet."""
        self.unet = merged(self.unet)
        return [self.unet]


class GuidedByControlNet(GuidedDenoiser):
    """The guide enters by a ControlNet, which alone is trained; it begins as a copy of the UNet (Zhang et al., 2023).

    A single 3 x 3 convolution takes the place of ControlNet's embedding of images, as in CCSR v2.

    Args:
        unet: The UNet, frozen; it may be shared.
        gradient_checkpointing: As in `GuidedDenoiser`.

    Raises:
        ValueError: If the UNet has no middle block, without which diffusers has no ControlNet.
    """

    def __init__(self, unet: UNet2DConditionModel, gradient_checkpointing: bool = False) -> None:
        super().__init__(unet.requires_grad_(False), gradient_checkpointing)
        if unet.mid_block is None:
            raise ValueError("Expected a UNet with a middle block for a ControlNet, found none. Use GuidedByInput.")
        self.controlnet: ControlNetModel = ControlNetModel.from_unet(unet)
        self.controlnet.controlnet_cond_embedding = _zero_convolution(unet)
        if gradient_checkpointing:
            self.controlnet.enable_gradient_checkpointing()

    def forward(self, noisy: Tensor, timestep: Tensor, prompt: Tensor | None, guide: Tensor) -> Tensor:
        """The UNet's output, the ControlNet's added to its skip connections and its middle block."""
        own, its = (next(network.parameters()).dtype for network in (self.unet, self.controlnet))
        words = [None if prompt is None else prompt.to(dtype) for dtype in (own, its)]
        down, middle = self.controlnet(noisy.to(its), timestep, words[1], guide.to(its), return_dict=False)
        output = self.unet(
            noisy.to(own),
            timestep,
            words[0],
            down_block_additional_residuals=[skip.to(own) for skip in down],
            mid_block_additional_residual=middle.to(own),
        ).sample
        return at_least_float32(output)

    def for_inference(self) -> list[nn.Module]:
        """The UNet and the ControlNet."""
        return [self.unet, self.controlnet]


class _GuidedConvolution(nn.Module):
    """Convolutions of z and of g, which come along the channels, and their sum."""

    def __init__(self, base: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.base, self.guide = base, guide

    def forward(self, both: Tensor) -> Tensor:
        noisy, guide = both.chunk(2, dim=1)
        total: Tensor = self.base(noisy) + self.guide(guide)
        return total


def _zero_convolution(unet: UNet2DConditionModel) -> nn.Conv2d:
    """A 3 x 3 convolution from a latent to the UNet's first features, all zero."""
    layer = nn.Conv2d(unet.config.in_channels, unet.config.block_out_channels[0], 3, padding=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
