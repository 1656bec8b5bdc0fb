"""Samplers as functions of a denoiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.diffusion.schedule import ResidualShiftSchedule


def shared_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw the same noise for every image of a batch, so that a result does not depend on the batch it came in.

    Args:
        like: A latent of shape (B, C, h, w).
        generator: A CPU generator: the same seed gives the same noise on every device. None draws independent noise
            per image from the global generator.
    """
    if generator is None:
        return torch.randn_like(like)
    noise = torch.randn(1, *like.shape[1:], generator=generator, dtype=torch.float32)
    return noise.to(like).expand_as(like)


def sample_residual_shift(
    predict_clean: Callable[[Tensor, Tensor], Tensor],
    degraded: Tensor,
    schedule: ResidualShiftSchedule,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Run ResShift's chain from the degraded latent to a clean one (ResShift, Algorithm 2).

    Args:
        predict_clean: Maps (w_τ, τ of shape (B,)) to an estimate of w_0.
        degraded: w_y, shape (B, C, h, w).
        schedule: The chain.
        generator: Source of the noise, see `shared_noise`.
        temperature: Factor on all noise of the chain: 1 samples as ResShift does; 0 follows the mean of every step,
            which is deterministic and the most faithful: a small network leaves some of the noise behind as grain.

    Returns:
        The estimate of w_0 made at τ = 0.
    """
    step = torch.full((degraded.shape[0],), schedule.num_steps - 1, device=degraded.device)
    last_sigma = schedule.kappa * schedule.eta(step, degraded).sqrt()
    shifted = degraded + temperature * last_sigma * shared_noise(degraded, generator)
    for index in range(schedule.num_steps - 1, 0, -1):
        step = torch.full_like(step, index)
        mean, sigma = schedule.posterior(shifted, predict_clean(shifted, step), step)
        shifted = mean + temperature * sigma * shared_noise(degraded, generator)
    return predict_clean(shifted, torch.zeros_like(step))
