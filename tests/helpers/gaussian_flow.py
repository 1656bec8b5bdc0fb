"""A conditional flow that is solvable by hand, in NumPy: x_1 ~ N(m, S²) given c."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianOracle:
    """Its paths are x(τ) = E x_τ + √Σ_τ ε, with x_0 = √(1-σ²) c + σ ε."""

    sigma: float
    std: float
    condition: Array
    mean: Array

    def start(self, noise: Array) -> Array:
        """x_0."""
        return np.sqrt(1 - self.sigma**2) * self.condition + self.sigma * noise

    def spread(self, time: float) -> float:
        """√Σ_τ: x_τ = (1-τ) x_0 + τ x_1 has two independent parts."""
        return float(np.hypot((1 - time) * self.sigma, time * self.std))

    def center(self, time: float) -> Array:
        """E x_τ given c."""
        return (1 - time) * np.sqrt(1 - self.sigma**2) * self.condition + time * self.mean

    def path(self, noise: Array, time: float) -> Array:
        """x(τ) of the ODE from the start with this noise."""
        return self.center(time) + self.spread(time) * noise

    def velocity(self, x: Array, time: float) -> Array:
        """E[x_1 - x_0 | x_τ = x], the rule of conditioning for Gaussians."""
        covariance = time * self.std**2 - (1 - time) * self.sigma**2
        prior = self.mean - np.sqrt(1 - self.sigma**2) * self.condition
        return prior + covariance / self.spread(time) ** 2 * (x - self.center(time))

    def amplitude(self, steps: int, solver: str) -> float:
        """Factor of ε in a solver's x_1: the solver's own steps of A' = (√Σ)'/√Σ A from A = σ."""

        def rate(time: float) -> float:
            return (time * self.std**2 - (1 - time) * self.sigma**2) / self.spread(time) ** 2

        a, h = self.sigma, 1 / steps
        for i in range(steps):
            k = rate(i * h)
            if solver != "euler":
                r = {"midpoint": 0.5, "ralston": 2 / 3, "heun": 1.0}[solver]
                k = (1 - 1 / (2 * r)) * k + 1 / (2 * r) * rate((i + r) * h) * (1 + r * h * k)
            a *= 1 + h * k
        return float(a)
