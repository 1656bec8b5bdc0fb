"""Time and memory of a model's parts, and models with generated weights to take them of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs import KLCodec, LatentCodec
from ctsr_lightning.codecs.codec import in_its_type
from ctsr_lightning.inference.devices import peak_memory, reset_peak_memory, synchronize
from ctsr_lightning.inference.precision import inference_precision
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.networks import LoRA, OneStepStudent, TradeOff, VelocityField
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


class Work(NamedTuple):
    """A part of a model."""

    part: str
    """Its name."""
    networks: list[nn.Module]
    """The networks in it."""
    run: Callable[[], Any]
    """A pass of it."""
    plain: Callable[[], Any] | None = None
    """A pass of diffusers' bare network, of the same type and on the same input; None where there is none."""


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


def measure(parts: list[Work], device: torch.device, warmup: int, repeats: int | None = None) -> Iterator[Cost]:
    """Measure parts of a model one by one, in turns with the bare networks.

    Args:
        parts: The parts, as `works` lists them.
        device: Where they compute.
        warmup: Passes of each part before anything is measured; whole restorations, whose parts ran before, have none.
        repeats: Measured passes of each part. None makes up to `PASSES`, and after `ENOUGH` seconds no more than a
            ratio needs; passes that take as long are not warmed up, and of whole restorations only the first is made.
    """
    slow = False
    for part, networks, run, plain in parts:
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
        )
        slow = part.startswith(WHOLE) and ours[0] > ENOUGH


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


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
            with torch.no_grad(), inference_precision(restorer.device, torch.float32, seed):
                return work()

        return run

    start = within(lambda: student.start(images))()
    latent = within(lambda: student.latent(images, start))()
    codec, unet = student.codec, student.unet
    prompt = student.prompt(images)
    zero = torch.zeros(len(images), device=restorer.device)
    encode, decode = _bare_codec(codec, student.upsample(images), latent)
    parts = [
        Work("encode z_L = E(up(x))", codec.halves()[0] or [codec], within(lambda: student.start(images)), encode),
        Work(
            "student's UNet",
            [unet],
            within(lambda: student.latent(images, start)),
            _bare_unet(unet, start, zero + student.timestep, prompt),
        ),
    ]
    if isinstance(model, TradeOff):
        if model.z0_source == "reencode":
            again = within(lambda: student.encode(student.decode(latent).clamp(0.0, 1.0)))
            parts.append(Work("decode and encode z_0", [codec], again))
        velocity = within(lambda: model.velocity(latent, zero, prompt, start))
        bare = _bare_unet(model.velocity.unet, latent, zero, prompt)
        parts.append(Work("velocity field's UNet", [model.velocity.unet], velocity, bare))
    parts.append(Work("decode", codec.halves()[1] or [codec], within(lambda: student.decode(latent)), decode))
    for count in CONTROLS if restorer.controllable else (1,):
        controls = [index / max(count - 1, 1) for index in range(count)]
        name = f"{WHOLE}, {count} value{'s' * (count > 1)} of t"
        parts.append(Work(name, [model], partial(restorer, images, controls)))
    return parts


def _bare_unet(unet: nn.Module, latent: Tensor, timestep: Tensor, prompt: Tensor | None) -> Callable[[], Any] | None:
    """A pass of diffusers' own UNet with the same weights."""
    if not isinstance(unet, UNet2DConditionModel):
        return None
    bare, dtype = _bare(unet), unet.dtype
    shown, words = latent.to(dtype), None if prompt is None else prompt.to(dtype)

    @torch.no_grad()
    def run() -> Tensor:
        output: Tensor = bare(shown, timestep, words).sample
        return output

    return run


def _bare_codec(codec: LatentCodec, image: Tensor, latent: Tensor) -> tuple[Callable[[], Any] | None, ...]:
    """An encoding and a decoding by diffusers' own autoencoder with the same weights."""
    if not isinstance(codec, KLCodec):
        return None, None
    bare = _bare(codec.autoencoder)
    shown, code = in_its_type(bare.encoder, image), in_its_type(bare.decoder, latent / bare.config.scaling_factor)

    @torch.no_grad()
    def encode() -> Tensor:
        latent: Tensor = bare.encode(shown).latent_dist.mode()
        return latent

    @torch.no_grad()
    def decode() -> Tensor:
        image: Tensor = bare.decode(code).sample
        return image

    return encode, decode


def _bare(network: Any) -> Any:
    """A network of diffusers as its configuration describes it, over the same weights."""
    with torch.device("meta"):
        bare = type(network).from_config(network.config)
    bare.load_state_dict(network.state_dict(), assign=True)
    return bare.eval()


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
    ends = [path.z_0] if path.velocity is None else [path.z_0, path.z_0 + path.velocity]
    return [(latent.cpu(), restorer.decode(path, float(t)).cpu()) for t, latent in enumerate(ends)]


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
