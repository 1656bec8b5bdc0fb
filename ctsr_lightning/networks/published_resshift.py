"""The published ResShift and SinSR restorers, which work in a VQ latent, and their loaders.

Nothing of either project comes with this package. Their weights are the user's own download and stay under their
licences, ResShift's under S-Lab License 1.0 and SinSR's under CC BY-NC-SA 4.0: both forbid commercial use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.codecs.vq import load_vq_codec
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.diffusion.sampling import noise_by_content, sample_resshift
from ctsr_lightning.diffusion.schedule import ResShiftSchedule
from ctsr_lightning.images import pad_to_multiple
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.weights.resshift_files import load_resshift_file

Version = Literal["v1", "v2", "v3"]
"""Releases of ResShift's x4 model: v1 and v2 walk 15 steps, v3 (the journal's) 4."""

_SCHEDULES = {"v1": (15, 0.04), "v2": (15, 0.04), "v3": (4, 0.2)}  # steps and noise at the first of them


class PublishedResShift(nn.Module):
    """ResShift's restorer: a chain from the latent of the enlarged image to that of the clean one.

    The denoiser predicts w_0 from w_τ / √(1 + κ² η_τ), the number of the step, and the low-quality image itself at its
    own resolution. That image needs the latent's grid, so the autoencoder's factor is the scale.

    Args:
        unet: The denoiser.
        codec: The autoencoder, never trained here.
        schedule: The chain; null for that of v3.
        scale: Enlargement.
        one_step: Answer with the prediction of the last step instead of walking the chain (SinSR).

    Raises:
        ValueError: If the parts do not fit each other.
    """

    def __init__(
        self,
        unet: SwinUNet,
        codec: LatentCodec,
        schedule: ResShiftSchedule | None = None,
        scale: int = 4,
        one_step: bool = False,
    ) -> None:
        super().__init__()
        if codec.factor != scale:
            raise ValueError(
                f"Expected an autoencoder whose factor is the scale, {scale}, because the denoiser sees the "
                f"low-quality image beside the latent; found factor {codec.factor}."
            )
        if not unet.in_channels == unet.out_channels == codec.channels:
            raise ValueError(
                f"Expected a denoiser with the {codec.channels} channels of the autoencoder's latent in and out, found "
                f"{unet.in_channels} in and {unet.out_channels} out."
            )
        self.unet, self.codec, self.scale, self.one_step = unet, codec, scale, one_step
        self.schedule = schedule or published_schedule("v3")
        codec.requires_grad_(False)

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels; `restore` pads by itself."""
        return self.scale * self.unet.multiple

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of denoiser and autoencoder in the backward pass."""
        self.unet.enable_gradient_checkpointing()
        self.codec.enable_gradient_checkpointing()

    @torch.no_grad()
    def degraded(self, lq: Tensor) -> Tensor:
        """w_y = E(up(x_LR)) for images in [0, 1], without gradient.

        The enlargement is torch's plain bicubic (a = -0.75, no clipping), as in the published model; it differs from
        the Pillow kernel that the student's input is made with.
        """
        up = F.interpolate(unit_to_signed(lq), scale_factor=float(self.scale), mode="bicubic")
        return at_least_float32(self.codec.encode(up))

    def encode(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1]: w = E(x), with gradient, so that losses on latents reach the images."""
        return at_least_float32(self.codec.encode(unit_to_signed(image)))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode: x = D(w), about [0, 1], not clipped, so that gradients flow."""
        return signed_to_unit(self.codec.decode(latent))

    def predict_clean(self, shifted: Tensor, step: Tensor, lq: Tensor) -> Tensor:
        """ŵ_0, float32.

        Args:
            shifted: w_τ, shape (B, C, h, w).
            step: Steps τ, shape (B,).
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).

        Raises:
            ValueError: If h or w is no multiple of the denoiser's.
        """
        return at_least_float32(self.unet(self.schedule.scale_input(shifted, step), step, unit_to_signed(lq)))

    @torch.no_grad()
    def restore(self, lq: Tensor, seed: int | None = 0) -> Tensor:
        """Restore images of any size; they are padded at the right and below to whole windows, and cropped again.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            seed: Seed of the noise. An image's noise depends on the seed and its own pixels alone, not on its batch or
                the device, and differs from image to image; a tile of a large image counts as an image. None draws
                fresh noise.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
        height, width = lq.shape[-2:]
        lq = pad_to_multiple(lq, self.unet.multiple)
        clean = sample_resshift(
            lambda shifted, step: self.predict_clean(shifted, step, lq),
            self.degraded(lq),
            self.schedule,
            noise_by_content(lq, seed),
            steps=1 if self.one_step else None,
        )
        return self.decode(clean).clamp(0.0, 1.0)[..., : self.scale * height, : self.scale * width]


def published_schedule(version: Version) -> ResShiftSchedule:
    """The chain of a release: κ = 2, p = 0.3, √η up to 0.99, 15 steps from 0.04 (v1, v2) or 4 from 0.2 (v3).

    Args:
        version: The release.

    Raises:
        ValueError: If there is no such release.
    """
    if version not in _SCHEDULES:
        raise ValueError(f"Expected one of the versions {', '.join(_SCHEDULES)}, found '{version}'.")
    steps, noise = _SCHEDULES[version]
    return ResShiftSchedule(num_steps=steps, min_noise_level=noise, kappa=2.0, power=0.3, eta_end=0.99)


def load_swin_unet(path: Path, architecture: Mapping[str, Any] | None = None) -> SwinUNet:
    """Load a denoiser with the published names; half precision becomes float32.

    Args:
        path: The file, `.pth` or `.safetensors`.
        architecture: Arguments of `SwinUNet` that differ from the published model's.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it is damaged, holds code or other weights.
    """
    with torch.device("meta"):  # without initialisation: the file holds every weight
        unet = SwinUNet(**(architecture or {}))
    load_resshift_file(unet, path, "a denoiser")
    return unet


def load_resshift(
    unet: Path,
    autoencoder: Path,
    version: Version = "v3",
    unet_architecture: Mapping[str, Any] | None = None,
    autoencoder_architecture: Mapping[str, Any] | None = None,
) -> PublishedResShift:
    """Load ResShift's published x4 model. Non-commercial use only (S-Lab License 1.0).

    The releases differ in weights and schedule, not in their names and shapes, so the version has to be right. It is
    checked against the published file name, where the file still has it.

    Args:
        unet: The denoiser, `resshift_realsrx4_s15_v1.pth`, `…_s15_v2.pth` or `…_s4_v3.pth`.
        autoencoder: The autoencoder, `autoencoder_vq_f4.pth`.
        version: Which release it is.
        unet_architecture: Arguments of `SwinUNet` that differ from the published model's.
        autoencoder_architecture: Arguments of `vq_autoencoder` that differ from the published model's.

    Raises:
        MissingWeightsError: If a file is missing.
        ValueError: If a file is damaged, holds code, other weights or another release.
    """
    schedule = published_schedule(version)
    name = Path(unet).name
    if name.startswith("SinSR"):
        raise ValueError(f"'{name}' is SinSR by its name, which restores in one step. Load it with load_sinsr.")
    named = re.match(r"resshift_realsrx4_s\d+_(v\d+)", name)
    if named and named[1] != version:
        raise ValueError(
            f"'{name}' is release {named[1]} by its name, but version is '{version}', whose schedule differs. "
            f"Set version to '{named[1]}', or rename the file if the name is wrong."
        )
    return PublishedResShift(
        load_swin_unet(unet, unet_architecture), load_vq_codec(autoencoder, autoencoder_architecture), schedule
    )


def load_sinsr(
    unet: Path,
    autoencoder: Path,
    unet_architecture: Mapping[str, Any] | None = None,
    autoencoder_architecture: Mapping[str, Any] | None = None,
) -> PublishedResShift:
    """Load SinSR, ResShift distilled to one step. Non-commercial use only (CC BY-NC-SA 4.0).

    It predicts w_0 once, from the last step of ResShift's 15 (Wang et al., "SinSR: Diffusion-Based Image
    Super-Resolution in a Single Step", CVPR 2024).

    Args:
        unet: The denoiser, `SinSR_v1.pth` or `SinSR_v2.pth`, or another distillation of the same form.
        autoencoder: The autoencoder, `autoencoder_vq_f4.pth`, the same as ResShift's.
        unet_architecture: Arguments of `SwinUNet` that differ from the published model's.
        autoencoder_architecture: Arguments of `vq_autoencoder` that differ from the published model's.

    Raises:
        MissingWeightsError: If a file is missing.
        ValueError: If a file is damaged, holds code or other weights.
    """
    name = Path(unet).name
    if name.startswith("resshift_"):
        raise ValueError(f"'{name}' is ResShift by its name, which walks its whole chain. Load it with load_resshift.")
    return PublishedResShift(
        load_swin_unet(unet, unet_architecture),
        load_vq_codec(autoencoder, autoencoder_architecture),
        published_schedule("v1"),
        one_step=True,
    )
