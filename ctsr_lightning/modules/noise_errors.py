"""Whether a teacher's predictions are a score: how well it finds the noise in ground truth, by noise level."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.diffusion.schedule import NoiseSchedule
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.teachers.base import Teacher

BANDS: Final = ((20, 59), (60, 149), (150, 299), (300, 576), (577, 979))
"""First and last t of every band; together those of score distillation."""


@torch.no_grad()
def noise_errors(teacher: Teacher, schedule: NoiseSchedule, clean: Tensor, batch: Batch) -> list[float]:
    """‖ε_T(z_t, t, c) - ε‖² / ‖ε‖² of every band of t, where z_t is made from ground truth.

    0 is perfect, 1 what a prediction of zero gets: a teacher above 1 is no score there. Teachers with another process
    or latent space count as what reaches the student's: an error of their clean latent weighs SNR_t. The numbers come
    from a generator of their own, so that the same batch gives the same errors and a training does not notice.

    Args:
        teacher: The teacher.
        schedule: The student's schedule.
        clean: z = E(x_GT), shape (B, C, h, w).
        batch: The images, with ground truth.
    """
    if batch.gt is None:
        raise ValueError("Noise errors are measured on ground truth, but this batch has none.")
    draws, errors = Draws(), []
    condition = teacher.condition(batch.lq, batch.key)
    for first, last in BANDS:
        timestep, noise = draws.integers(first, last, clean), draws.normal(clean)
        noisy = add_noise(schedule, clean, noise, timestep, batch.gt)
        found = teacher.targets(noisy, noisy, condition, "score", draws.normal).align
        errors.append(F.mse_loss(found, at_least_float32(noise)) / at_least_float32(noise).square().mean())
    return torch.stack(errors).tolist()
