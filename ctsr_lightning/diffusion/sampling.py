"""Samplers as functions of a denoiser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ctsr_lightning.diffusion.schedule import NoiseSchedule, ResShiftSchedule
from ctsr_lightning.images import content_key

Normal = Callable[[Tensor], Tensor]
"""Draws N(0, I) in the shape, type and device of a tensor of shape (B, ...)."""
Between = Literal["renoise", "posterior"]
"""How the next step's input is made of an estimate ẑ_0: noised anew (AddSR), or drawn from q(z_s | z_t, ẑ_0) (DDPM)."""


def noise_by_content(images: Tensor, seed: int | None) -> Normal:
    """Noise that depends on the image alone, not on its batch, its place there or its device.

    Every image has a CPU generator of its own, seeded by `seed` and its content (`content_key`): two images get
    independent noise, the same image the same again.

    Args:
        images: RGB in [0, 1], shape (B, 3, h, w).
        seed: Seed; None draws fresh noise from the global generator.

    Returns:
        Function that draws noise for the batch, anew at every call.
    """
    if seed is None:
        return torch.randn_like
    generators = [generator_by_content(image, seed) for image in images]

    def normal(like: Tensor) -> Tensor:
        drawn = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
        return torch.stack(drawn).to(like)

    return normal


def generator_by_content(image: Tensor, seed: int) -> torch.Generator:
    """A CPU generator for one image.

    Args:
        image: RGB in [0, 1], shape (3, h, w).
        seed: Seed.
    """
    digest = hashlib.blake2b(f"{seed}/{content_key(image)}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def shared_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """N(0, I) of one image, the same for every image of a batch, so that none depends on its neighbours.

    Args:
        like: Latents, shape (B, C, h, w), for shape, type and device.
        generator: Source on the CPU; None for the global one.
    """
    return torch.randn(like.shape[1:], generator=generator).to(like).expand_as(like)


def sample_resshift(
    predict_clean: Callable[[Tensor, Tensor], Tensor],
    degraded: Tensor,
    schedule: ResShiftSchedule,
    normal: Normal = torch.randn_like,
    temperature: float = 1.0,
    steps: int | None = None,
) -> Tensor:
    """Run ResShift's chain from the degraded latent to a clean one (ResShift, Algorithm 2).

    Args:
        predict_clean: Maps (w_τ, τ of shape (B,)) to an estimate of w_0.
        degraded: w_y, shape (B, C, h, w).
        schedule: The chain.
        normal: Draws the noise, see `noise_by_content`.
        temperature: Factor in [0, 1] on all noise of the chain: 1 samples as ResShift does; 0 follows the mean of every
            step, which is deterministic and the most faithful: a small network leaves some of the noise behind as
            grain.
        steps: Answer with the estimate made at this step of the walk, from 1, the first, to the chain's length, which
            null means too.

    Returns:
        The estimate of w_0 made at τ = 0, or at τ = N - steps.
    """
    last = schedule.num_steps - (schedule.num_steps if steps is None else steps)
    step = torch.full((degraded.shape[0],), schedule.num_steps - 1, device=degraded.device)
    last_sigma = schedule.kappa * schedule.eta(step, degraded).sqrt()
    shifted = degraded + temperature * last_sigma * normal(degraded)
    for index in range(schedule.num_steps - 1, last, -1):
        step = torch.full_like(step, index)
        mean, sigma = schedule.posterior(shifted, predict_clean(shifted, step), step)
        shifted = mean + temperature * sigma * normal(degraded)
    return predict_clean(shifted, torch.full_like(step, last))


def sample_few_steps(
    predict_clean: Callable[[Tensor, int, Tensor | None], Tensor],
    start: Tensor,
    schedule: NoiseSchedule,
    steps: Sequence[int],
    between: Between = "renoise",
    normal: Normal = torch.randn_like,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Denoise in a few steps at any timesteps.

    The first step's estimate is always noised anew: over so long a jump q is no use (CCSR, Sec. III-B).

    Args:
        predict_clean: Maps (z_t, t, the estimate before, None at the first step) to an estimate of z_0.
        start: z_t at the first timestep, shape (B, C, h, w).
        schedule: The schedule.
        steps: Timesteps, descending.
        between: How later inputs are made.
        normal: Draws the noise, once between two steps.
        temperature: Factor in [0, 1] on that noise; 0 is deterministic.

    Returns:
        The estimate of z_0 made at every step.
    """
    noisy, clean, estimates = start, None, []
    for index, step in enumerate(steps):
        clean = predict_clean(noisy, step, clean)
        estimates.append(clean)
        if index + 1 == len(steps):
            break
        timestep, following = (torch.full((len(start),), t, device=start.device) for t in steps[index : index + 2])
        if index == 0 or between == "renoise":
            noisy = schedule.add_noise(clean, temperature * normal(clean), following)
        else:
            mean, sigma = schedule.posterior(noisy, clean, timestep, following)
            noisy = mean + temperature * sigma * normal(clean)
    return estimates
