"""What a training step of the small model costs, variant by variant, side by side in one run.

Every variant takes steps of T_r (student, decoder, L1, LPIPS or its stand-in through random views, lattice term,
backward pass, AdamW) from the same start on the same crops, in turns with the first one, so that a machine that slows
down slows all of them. Printed are milliseconds per sample and the median of the ratios to the first, and the loss of
the last step, which shows whether a variant computes the same.

    python benchmarks/training_step.py --rounds 5 --threads 1
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.losses import reconstruction
from ctsr_lightning.losses.random_views import random_view
from ctsr_lightning.losses.reconstruction import LATTICE
from ctsr_lightning.metrics.perceptual import perceptual_distance
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.networks import nano_unet
from ctsr_lightning.teachers import ExpertTeacher


@dataclass(frozen=True)
class Variant:
    """One way to take a step."""

    name: str
    batch: int = 8
    crop: int = 128
    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False
    lpips_side: int | None = None
    expert: str | None = None
    """File of an expert that is asked in every step; otherwise its answer is taken to be cached."""


def student() -> OneStepStudent:
    """The shipped model's sizes, always with the same weights."""
    torch.manual_seed(0)
    return OneStepStudent(nano_unet(), NanoCodec(), timestep=250)


def stepper(variant: Variant) -> Callable[[], float]:
    """A function that takes one step and returns its loss."""
    model, perceptual = student(), perceptual_distance(net="squeeze")
    if variant.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if variant.compiled:
        model.unet.compile()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    expert = None if variant.expert is None else ExpertTeacher(variant.expert)
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(variant.batch, 3, variant.crop // 4, variant.crop // 4, generator=generator)
    goal = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1)

    def seen(image: Tensor) -> Tensor:
        return image if variant.lpips_side is None else image[..., : variant.lpips_side, : variant.lpips_side]

    def step() -> float:
        target = goal if expert is None else expert.restore(lq)
        context = torch.autocast("cpu", torch.bfloat16) if variant.bfloat16 else contextlib.nullcontext()
        with context:
            restored = model.decode(model.latent(lq))
            views = random_view(seen(restored), seen(target), torch.Generator().manual_seed(2))
            loss = reconstruction.l1(restored, target) + 0.7 * perceptual(*views).mean()
            loss = loss + 0.002 * reconstruction.lattice(restored, target, LATTICE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    """Time the variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each variant")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--expert", help="an expert's file, to time asking it in every step")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too, which takes a minute to begin")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    variants = [
        Variant("batch 8, crop 128, float32"),
        Variant("channels-last", channels_last=True),
        Variant("bfloat16", bfloat16=True),
        Variant("bfloat16, channels-last", bfloat16=True, channels_last=True),
        Variant("batch 4", batch=4),
        Variant("crop 96", crop=96),
        Variant("LPIPS on crops of 64", lpips_side=64),
    ]
    variants += [Variant("torch.compile", compiled=True)] if words.compile else []
    variants += [Variant("expert asked in every step", expert=words.expert)] if words.expert else []
    steppers = {variant: stepper(variant) for variant in variants}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    losses = {variant: step() for variant, step in steppers.items()}  # warm up
    for _ in range(words.rounds):
        for variant, step in steppers.items():
            start = time.perf_counter()
            losses[variant] = step()
            seconds[variant].append(time.perf_counter() - start)
    print("| variant | ms / sample of 128x128 | steps / s | relative to the first | loss |\n|---|---|---|---|---|")
    for variant in variants:
        area = variant.batch * (variant.crop / 128) ** 2
        ratio = statistics.median(
            (own / area) / (first / 8) for own, first in zip(seconds[variant], seconds[variants[0]], strict=True)
        )
        median = statistics.median(seconds[variant])
        print(
            f"| {variant.name} | {1000 * median / area:.0f} | {1 / median:.2f} | {ratio:.2f} | {losses[variant]:.4f} |"
        )


if __name__ == "__main__":
    main()
