"""Noise-augmented conditional flows: path, solvers of their ODE, and the solution of a Gaussian one.

Flow time τ runs from 0, the noised low-quality latent, to 1, the clean one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
"""A velocity v(x, τ) of latents x, shape (B, C, h, w), and times τ, shape (B,)."""
Solver = Literal["euler", "midpoint", "heun", "ralston"]
"""Euler's method, or a Runge-Kutta method of second order."""
STAGES: Final = {"midpoint": 0.5, "ralston": 2.0 / 3.0, "heun": 1.0}
"""Share r of a step after which a method of second order evaluates the velocity again."""


def expand(time: Tensor, like: Tensor) -> Tensor:
    """Reshape τ from (B,) to (B, 1, ...), which broadcasts against `like`."""
    return time.view(-1, *([1] * (like.dim() - 1)))


def perturb(condition: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Noised condition x_0 = √(1-σ²) c + σ ε, where the flow starts (OFTSR, Sec. 3.1).

    Args:
        condition: c, shape (B, C, h, w).
        noise: ε ~ N(0, I).
        sigma: σ in [0, 1].
    """
    return math.sqrt(1.0 - sigma**2) * condition + sigma * noise


def interpolate(x_0: Tensor, x_1: Tensor, time: Tensor) -> Tensor:
    """The straight path x_τ = (1 - τ) x_0 + τ x_1.

    Args:
        x_0: Start, shape (B, C, h, w).
        x_1: End.
        time: τ, shape (B,).
    """
    t = expand(time, x_0)
    return (1.0 - t) * x_0 + t * x_1


def paired_time(alpha_bar: Tensor, sigma: float) -> Tensor:
    """The τ at which x_τ given c has the SNR of a variance-preserving schedule.

    From τ² / ((1 - τ)² σ²) = ᾱ / (1 - ᾱ) follows τ = ρ / (1 + ρ) with ρ = σ √(ᾱ / (1 - ᾱ)).

    Args:
        alpha_bar: ᾱ_t, any shape with B elements.
        sigma: σ of the perturbation.

    Returns:
        τ, shape (B,).
    """
    ratio = sigma * (alpha_bar / (1.0 - alpha_bar)).sqrt().flatten()
    return ratio / (1.0 + ratio)


def step_velocity(
    field: Field, x: Tensor, time: Tensor, step: Tensor, solver: Solver, first: Tensor | None = None
) -> Tensor:
    """Mean velocity v̄ of one step of a solver, x_{τ+h} = x_τ + h v̄.

    v_1 = v(x, τ) for Euler; v_1 + (v_2 - v_1) / 2r with v_2 = v(x + r h v_1, τ + r h) otherwise.

    Args:
        field: v.
        x: x_τ, shape (B, C, h, w).
        time: τ, shape (B,).
        step: h > 0 with τ + h <= 1, shape (B,).
        solver: The method.
        first: v_1 where it is known already.
    """
    first = field(x, time) if first is None else first
    if solver == "euler":
        return first
    r = STAGES[solver]
    second = field(x + r * expand(step, x) * first, (time + r * step).clamp(max=1.0))
    return first + (second - first) / (2.0 * r)


def integrate(field: Field, x_0: Tensor, steps: int, solver: Solver = "midpoint") -> Tensor:
    """Solve dx/dτ = v(x, τ) from τ = 0 to 1 in equal steps, which do not depend on the batch.

    Args:
        field: v.
        x_0: Start, shape (B, C, h, w).
        steps: Number of steps, at least 1.
        solver: The method; all but Euler evaluate v twice per step.

    Returns:
        x_1.
    """
    x, step = x_0, torch.full((len(x_0),), 1.0 / steps, dtype=x_0.dtype, device=x_0.device)
    for index in range(steps):
        time = torch.full_like(step, index / steps)
        x = x + step_velocity(field, x, time, step, solver) / steps
    return x


class GaussianFlow(NamedTuple):
    """The flow from x_0 = a c + σ ε, a = √(1-σ²), to x_1 ~ N(m, S²) given c, in closed form.

    Its paths are x_τ = (1 - τ) a c + τ m + √Σ_τ ε. Times broadcast against latents, see `expand`.
    """

    sigma: float
    """σ in (0, 1]."""
    std: float | Tensor
    """S > 0, a number or one per channel, shape (C, 1, 1)."""

    def variance(self, time: Tensor) -> Tensor:
        """Σ_τ = (1 - τ)² σ² + τ² S² of x_τ given c."""
        return ((1.0 - time) * self.sigma) ** 2 + (time * self.std) ** 2

    def gain(self, time: Tensor) -> Tensor:
        """k_τ = (τ S² - (1 - τ) σ²) / Σ_τ, the factor of x_τ - E x_τ in the velocity."""
        return (time * self.std**2 - (1.0 - time) * self.sigma**2) / self.variance(time)

    def mean_gain(self, time: Tensor) -> Tensor:
        """p_τ = (√Σ_τ - σ) / τ, the factor of ε in the mean velocity from 0 to τ, in a form that is finite at 0."""
        spread = time * (self.sigma**2 + self.std**2) - 2.0 * self.sigma**2
        return spread / (self.variance(time).sqrt() + self.sigma)

    def amplitude(self, time: Tensor) -> Tensor:
        """g_τ = σ + p_τ, the factor of ε in x_0 + (mean velocity from 0 to τ): from 0 at τ = 0 to S at 1."""
        return self.sigma + self.mean_gain(time)

    def remainder(self, time: Tensor) -> float | Tensor:
        """S σ / √Σ_τ, the standard deviation of x_1 - x_0 given x_τ."""
        return self.std * self.sigma / self.variance(time).sqrt()

    def deviation(self, x: Tensor, time: Tensor, condition: Tensor, mean: Tensor) -> Tensor:
        """(x - E x_τ) / √Σ_τ, which is ε all along a path.

        Args:
            x: x_τ, shape (B, C, h, w).
            time: τ, shape (B,).
            condition: c.
            mean: m.
        """
        t = expand(time, x)
        return self._offset(x, t, condition, mean) / self.variance(t).sqrt()

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor, mean: Tensor) -> Tensor:
        """v(x, τ) = m - a c + k_τ (x - E x_τ).

        Args:
            x: x_τ, shape (B, C, h, w).
            time: τ, shape (B,).
            condition: c.
            mean: m.
        """
        t, start = expand(time, x), math.sqrt(1.0 - self.sigma**2) * condition
        return mean - start + self.gain(t) * self._offset(x, t, condition, mean)

    def _offset(self, x: Tensor, t: Tensor, condition: Tensor, mean: Tensor) -> Tensor:
        """X - E x_τ, for τ that broadcasts."""
        return x - (1.0 - t) * math.sqrt(1.0 - self.sigma**2) * condition - t * mean

    def mean_velocity(self, x_0: Tensor, time: Tensor, condition: Tensor, mean: Tensor) -> Tensor:
        """(x_τ - x_0) / τ = m - a c + p_τ ε, which tends to v(x_0, 0) as τ does to 0.

        Args:
            x_0: Start, shape (B, C, h, w).
            time: τ, shape (B,).
            condition: c.
            mean: m.
        """
        start = math.sqrt(1.0 - self.sigma**2) * condition
        return mean - start + self.mean_gain(expand(time, x_0)) * ((x_0 - start) / self.sigma)
