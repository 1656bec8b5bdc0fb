"""Time and memory of a model's parts, and models with generated weights to take them of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.inference.devices import peak_memory, reset_peak_memory, synchronize
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent, TradeOff
from ctsr_lightning.models.parts import Part
from ctsr_lightning.networks import LoRA, VelocityField
from ctsr_lightning.networks.sharing import over_the_same_weights
from ctsr_lightning.prompts.base import Prompt

WHOLE: Final = "whole"
"""First word of the parts that are whole restorations."""
Points: TypeAlias = "list[tuple[Tensor, Tensor]]"
"""Latent and picture at a few t."""
CONTROLS = (1, 2, 6)
"""Numbers of values of t that whole restorations are measured for."""
ENOUGH = 5.0
"""Seconds of a part after which it is measured no further, where the number of passes is not given."""
PASSES = 10
"""Passes of a part at most, where their number is not given."""


class Cost(NamedTuple):
    """Cost of a part of a model."""

    part: str
    """The part."""
    dtype: str
    """Type of its weights, or types, the first network's first."""
    parameters: int
    """Parameters of the networks in it."""
    passes: int
    """Measured passes."""
    seconds: float
    """Median over them."""
    fastest: float
    """Fastest pass."""
    plain: float | None
    """Median of the bare network; None where there is none."""
    ratio: float | None
    """Median over pairs of passes, one after the other, of their times: this over the bare network."""
    memory: int | None
    """Peak memory in bytes while it ran: the device's allocations, or all of the process on a CPU; None if unknown."""
    per_t: bool
    """Whether every further t takes it again."""


def measure(works: list[Part], device: torch.device, warmup: int, repeats: int | None = None) -> Iterator[Cost]:
    """Measure parts of a model one by one, in turns with the bare networks.

    Args:
        works: The parts, as `parts` lists them.
        device: Where they compute.
        warmup: Passes of each part before anything is measured; whole restorations, whose parts ran before, have none.
        repeats: Measured passes of each part. None makes up to `PASSES`, and after `ENOUGH` seconds no more than a
            ratio needs; passes that take as long are not warmed up, and of whole restorations only the first is made.
    """
    slow = False
    for part, networks, run, plain, per_t in works:
        if slow and repeats is None:
            return
        least, pairs, memory = 1 if plain is None else 2, [], 0
        for _ in range(0 if part.startswith(WHOLE) else warmup):
            pairs = [(_timed(run, device), None if plain is None else _timed(plain, device))]
            if repeats is None and pairs[0][0] > ENOUGH:
                break
            pairs = []
        while len(pairs) < (repeats or PASSES) and (repeats or len(pairs) < least or sum(p[0] for p in pairs) < ENOUGH):
            swapped = len(pairs) % 2  # in every other pair the bare network comes first
            before = _timed(plain, device) if plain is not None and swapped else None
            reset_peak_memory(device)
            own = _timed(run, device)
            memory = max(memory, peak_memory(device) or 0)
            pairs.append((own, before if before is not None or plain is None else _timed(plain, device)))
        ours = [own for own, _ in pairs]
        theirs = [bare for _, bare in pairs if bare is not None]
        tensors = [p for network in networks for p in network.parameters()]
        yield Cost(
            part,
            " + ".join(dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in tensors)),
            sum(p.numel() for p in tensors),
            len(pairs),
            statistics.median(ours),
            min(ours),
            statistics.median(theirs) if theirs else None,
            statistics.median(own / bare for own, bare in zip(ours, theirs, strict=True)) if theirs else None,
            memory or None,
            per_t,
        )
        slow = part.startswith(WHOLE) and ours[0] > ENOUGH


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def parts(restorer: Restorer, lq: Tensor) -> list[Part]:
    """The parts of a model on inputs as they are in a restoration, then whole restorations.

    Args:
        restorer: The model.
        lq: Low-quality images in [0, 1], shape (B, 3, h, w).
    """
    images = lq.to(restorer.device)

    @torch.no_grad()
    def within(work: Callable[[], Any]) -> Any:
        with restorer.computing():
            return work()

    single: list[Part] = within(lambda: restorer.model.parts(images))
    found = [part._replace(run=partial(within, part.run)) for part in single]
    for count in CONTROLS if restorer.controllable else (1,):
        controls = [index / max(count - 1, 1) for index in range(count)]
        name = f"{WHOLE}, {count} value{'s' * (count > 1)} of t"
        found.append(Part(name, [restorer.model], partial(restorer, images, controls)))
    return found


class Difference(NamedTuple):
    """How far a precision is from float32."""

    control: float
    """t."""
    psnr: float
    """PSNR in dB between the pictures, all channels, range 1."""
    latent: float
    """Root mean square error of z(t) over its standard deviation."""


def differences(found: Points, expected: Points) -> list[Difference]:
    """Compare restorations in a precision with those in float32, at t = 0 and, where there is one, at t = 1.

    Args:
        found: Points of the path in the precision.
        expected: Those in float32.
    """
    result = []
    for control, (latent, image), (wide, truth) in zip((0.0, 1.0), found, expected, strict=False):
        error = (image.double() - truth.double()).square().mean().clamp_min(1e-20)
        rms = (latent.double() - wide.double()).square().mean().sqrt() / wide.double().std()
        result.append(Difference(control, float(-10.0 * error.log10()), float(rms)))
    return result


def points(restorer: Restorer, lq: Tensor) -> Points:
    """(z(t), x(t)) at t = 0 and, where there is one, at t = 1, on the CPU.

    Args:
        restorer: The model.
        lq: Low-quality images in [0, 1], shape (B, 3, h, w).
    """
    path = restorer.trajectory(lq)
    controls = [0.0, 1.0] if restorer.controllable else [0.0]
    with torch.no_grad(), restorer.computing():
        latents = [restorer.model.latent_at(path.state, t) for t in controls]
    return [(latent.cpu(), restorer.decode(path, t).cpu()) for t, latent in zip(controls, latents, strict=True)]


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
