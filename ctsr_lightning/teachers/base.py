"""What a student asks of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ctsr_lightning.diffusion.schedule import NoiseSchedule


class Noisy(NamedTuple):
    """A latent noised in the student's schedule, with all that went into it.

    A teacher that lives in another schedule or latent space rebuilds its own input from the clean latent and the noise.
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


def add_noise(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timestep: Tensor) -> Noisy:
    """Noise a latent and remember how.

    Args:
        schedule: The student's schedule.
        clean: z_0, shape (B, C, h, w).
        noise: ε of the same shape.
        timestep: t, shape (B,).
    """
    return Noisy(
        schedule.add_noise(clean, noise, timestep), timestep, clean, noise, schedule.alpha_bar(timestep, clean)
    )


class Teacher(nn.Module, ABC):
    """A frozen restoration expert that answers in the student's latent space and schedule.

    A teacher owns its networks through `Frozen`: it has no parameters and enters no checkpoint.
    """

    scale: int
    """Enlargement that the teacher was made for."""
    seed: int = 0
    """Seed of what the teacher draws when it restores, if it draws anything."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""

    @abstractmethod
    def condition(self, lq: Tensor) -> Tensor | None:
        """What `predict_noise` needs to know of the low-quality images; computed once per batch, without gradient.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
        """

    @abstractmethod
    def predict_noise(self, noisy: Noisy, condition: Tensor | None) -> Tensor:
        """ε_T(z_t, t, c), float32, shape (B, C, h, w). Gradients flow to the latent if the caller allows them.

        Args:
            noisy: The noised latent.
            condition: The answer of `condition` for the same batch.
        """

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images: x_1 of stage 2. The same input gives the same output, whatever batch it comes in.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
