"""Time and memory of a model's parts, and models with generated weights to take them of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.inference.devices import peak_memory, reset_peak_memory, synchronize
from ctsr_lightning.inference.precision import inference_precision
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.networks import LoRA, OneStepStudent, TradeOff, VelocityField
from ctsr_lightning.networks.sharing import over_the_same_weights
from ctsr_lightning.prompts.base import Prompt

CONTROLS = (1, 2, 6)
"""Numbers of values of t that whole restorations are measured for."""


class Cost(NamedTuple):
    """Cost of a part of a model."""

    part: str
    """The part."""
    parameters: int
    """Parameters of the networks in it."""
    seconds: float
    """Median over the measured passes."""
    fastest: float
    """Fastest pass."""
    memory: int | None
    """Peak memory in bytes while it ran: the device's allocations, or all of the process on a CPU; None if unknown."""


Work = tuple[str, list[nn.Module], Callable[[], Any]]
"""A part of a model: its name, the networks in it, and a pass of it."""


def measure(parts: list[Work], device: torch.device, warmup: int, repeats: int) -> Iterator[Cost]:
    """Measure parts of a model one by one.

    Args:
        parts: The parts, as `works` lists them.
        device: Where they compute.
        warmup: Passes of each part before anything is measured.
        repeats: Measured passes of each part.
    """
    for name, networks, work in parts:
        for _ in range(warmup):
            work()
        reset_peak_memory(device)
        seconds = []
        for _ in range(repeats):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        parameters = sum(p.numel() for network in networks for p in network.parameters())
        yield Cost(name, parameters, statistics.median(seconds), min(seconds), peak_memory(device))


def works(restorer: Restorer, lq: Tensor) -> list[Work]:
    """The parts of a model on inputs as they are in a restoration, then whole restorations.

    Args:
        restorer: The model.
        lq: Low-quality images in [0, 1], shape (B, 3, h, w).
    """
    student, model = restorer.student, restorer.model
    images = lq.to(restorer.device)

    def within(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            seed = restorer.seed if student.sample_latent else None
            with torch.no_grad(), inference_precision(restorer.device, restorer.dtype, seed):
                return work()

        return run

    start = within(lambda: student.start(images))()
    latent = within(lambda: student.latent(images, start))()
    codec, unet = student.codec, student.unet
    parts: list[Work] = [
        ("encode z_L = E(up(x))", [codec], within(lambda: student.start(images))),
        ("student's UNet", [unet], within(lambda: student.latent(images, start))),
    ]
    if isinstance(model, TradeOff):
        if model.z0_source == "reencode":
            again = within(lambda: student.encode(student.decode(latent).clamp(0.0, 1.0)))
            parts.append(("decode and encode z_0", [codec], again))
        zero = torch.zeros(len(images), device=restorer.device)
        velocity = within(lambda: model.velocity(latent, zero, student.prompt(images), start))
        parts.append(("velocity field's UNet", [model.velocity], velocity))
    parts.append(("decode", [codec], within(lambda: student.decode(latent))))
    for count in CONTROLS if restorer.controllable else (1,):
        controls = [index / max(count - 1, 1) for index in range(count)]
        name = f"whole, {count} value{'s' * (count > 1)} of t"
        parts.append((name, [model], partial(restorer, images, controls)))
    return parts


def generated_model() -> TradeOff:
    """A stage-2 model of full size with random weights, whose time and memory are those of a trained one.

    Stable Diffusion 2.1-base: a UNet of 866 M and an autoencoder of 84 M parameters, with adapters of rank 4 as in
    `configs/ctsr`; student and velocity field share the UNet's weights.
    """
    autoencoder = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
        scaling_factor=0.18215,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    velocity = VelocityField(over_the_same_weights(unet), LoRA())
    return TradeOff(OneStepStudent(unet, KLCodec(autoencoder), 4, LoRA(), LoRA(), _NoWords()), velocity)


class _NoWords(Prompt):
    """An embedding of zeros with the length and width of Stable Diffusion 2.1's."""

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002
        return lq.new_zeros(lq.shape[0], 77, 1024)
