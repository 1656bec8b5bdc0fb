"""Noised latents with the clean latent, noise, timestep and image that they were made from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ctsr_lightning.diffusion.schedule import NoiseSchedule


class Noisy(NamedTuple):
    """A latent noised in the student's schedule, with its clean latent, noise, timestep and image.

    A teacher with another schedule or latent space builds its own input from these.
    """

    latent: Tensor
    """z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε, shape (B, C, h, w)."""
    timestep: Tensor
    """t, shape (B,)."""
    clean: Tensor
    """z_0."""
    noise: Tensor
    """ε."""
    alpha_bar: Tensor
    """ᾱ_t, shape (B, 1, 1, 1)."""
    image: Tensor
    """Image of z_0, shape (B, 3, H, W), about [0, 1]: D(ẑ) for the student, x_GT itself for the ground
    truth."""


def add_noise(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timestep: Tensor, image: Tensor) -> Noisy:
    """Noise a latent: z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε.

    Args:
        schedule: The student's schedule.
        clean: z_0, shape (B, C, h, w).
        noise: ε of the same shape.
        timestep: t, shape (B,).
        image: The image of z_0, shape (B, 3, H, W).
    """
    return Noisy(
        schedule.add_noise(clean, noise, timestep), timestep, clean, noise, schedule.alpha_bar(timestep, clean), image
    )
