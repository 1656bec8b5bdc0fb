"""Noise schedules: the variance-preserving one of latent diffusion and the residual shift of ResShift."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

PAPER_TIMESTEPS = (20, 979)
"""First and last timestep of score distillation: t ~ U{20..979} (OSEDiff, DreamFusion)."""


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1) so that it multiplies a batch of latents."""
    return values.view(-1, *([1] * (like.dim() - 1)))


class NoiseSchedule:
    r"""Variance-preserving discrete schedule of latent diffusion models.

    z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε with ᾱ_t = ∏_{s≤t} (1-β_s). The table is computed in float64, values are float32
    whatever the precision of the network, because the one-step student divides by √ᾱ_999 = 0.068.

    Args:
        num_timesteps: Length of the schedule.
        beta_start: First β (Stable Diffusion: 0.00085).
        beta_end: Last β (Stable Diffusion: 0.012).
        kind: `scaled_linear` interpolates √β, as Stable Diffusion does; `linear` interpolates β, as DDPM does.

    Raises:
        ValueError: If the betas do not satisfy 0 < beta_start <= beta_end < 1.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        kind: Literal["scaled_linear", "linear"] = "scaled_linear",
    ) -> None:
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"Expected 0 < beta_start <= beta_end < 1, found {beta_start} and {beta_end}.")
        self.num_timesteps = num_timesteps
        if kind == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
        else:
            betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
        self.alpha_bars = torch.cumprod(1.0 - betas, dim=0)
        self._on_device: dict[torch.device, Tensor] = {}

    def alpha_bar(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Look up ᾱ_t.

        Args:
            timestep: Integer timesteps in [0, num_timesteps), shape (B,).
            like: A latent; the result broadcasts against it.

        Returns:
            ᾱ_t of shape (B, 1, 1, 1); float64 for a float64 latent, otherwise float32.
        """
        device = timestep.device
        if device not in self._on_device:  # copied once: a transfer per step would stall the accelerator
            table = self.alpha_bars.float() if device.type == "mps" else self.alpha_bars
            self._on_device[device] = table.to(device)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return _expand(self._on_device[device][timestep].to(dtype), like)

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Forward process: z_t = √ᾱ_t z_0 + √(1-ᾱ_t) ε.

        Args:
            clean: z_0, shape (B, C, h, w).
            noise: ε ~ N(0, I) of the same shape.
            timestep: Timesteps, shape (B,).
        """
        alpha_bar = self.alpha_bar(timestep, clean)
        return alpha_bar.sqrt() * clean + (1.0 - alpha_bar).sqrt() * noise

    def posterior(self, noisy: Tensor, clean: Tensor, timestep: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z_s | z_t, z_0) for any s < t (DDPM, Eq. 7, where s = t - 1).

        With a = ᾱ_t / ᾱ_s: mean √ᾱ_s (1-a)/(1-ᾱ_t) z_0 + √a (1-ᾱ_s)/(1-ᾱ_t) z_t, variance (1-a) (1-ᾱ_s)/(1-ᾱ_t).

        Args:
            noisy: z_t, shape (B, C, h, w).
            clean: z_0, or its estimate.
            timestep: t, shape (B,).
            previous: s, shape (B,).
        """
        now, then = self.alpha_bar(timestep, noisy), self.alpha_bar(previous, noisy)
        ratio = now / then
        of_clean, of_noisy = (1.0 - ratio) / (1.0 - now), (1.0 - then) / (1.0 - now)
        mean = then.sqrt() * of_clean * clean + ratio.sqrt() * of_noisy * noisy
        return mean, ((1.0 - ratio) * of_noisy).sqrt()


def structure_steps(
    grid: int,
    t_max: float = 2 / 3,
    t_min: float = 1 / 2,
    spacing: Literal["nominal", "leading"] = "nominal",
    num_timesteps: int = 1000,
) -> list[int]:
    """Timesteps of CCSR's non-uniform sampling: the last one, then a uniform grid from t_max down to before t_min.

    They are grid * (t_max - t_min) + 1, the first one included: 2, 3 and 4 for grids of 6, 12 and 18.

    Args:
        grid: Steps T of a uniform grid over the whole schedule.
        t_max: Where the first step leads, as a share of the schedule.
        t_min: Where the chain is cut off; as much as `t_max` leaves the first step alone.
        spacing: `nominal` places step k of the grid at k / T of the schedule; `leading` where diffusers' schedulers
            have it, up to a whole step earlier: 499 in place of 667, so that CCSR's published chain never visits t_max.
        num_timesteps: Length of the schedule.

    Raises:
        ValueError: If not 0 <= t_min <= t_max < 1, or one of them is no step of the grid.
    """
    ends = [round(grid * share) for share in (t_max, t_min)]
    exact = all(math.isclose(grid * share, end, abs_tol=1e-6) for share, end in zip((t_max, t_min), ends, strict=True))
    if not (0.0 <= t_min <= t_max < 1.0 and exact):
        raise ValueError(
            f"Expected 0 <= t_min <= t_max < 1, both steps of a grid of {grid}, found {t_min:g} and {t_max:g}. "
            "Take a grid of which both are whole steps."
        )
    inner = range(ends[0], ends[1], -1)
    if spacing == "leading":
        return [num_timesteps - 1, *(num_timesteps // grid * (k - 1) + 1 for k in inner)]
    return [num_timesteps - 1, *(round(num_timesteps * k / grid) for k in inner)]


class ResShiftSchedule:
    r"""ResShift's schedule: a chain from the clean latent to the degraded one.

    w_τ = w_0 + η_τ (w_y - w_0) + κ √η_τ ε  (ResShift, Eq. 1-2), with √η growing geometrically on a warped clock:
    √η_τ = √η_0 · (√η_end/√η_0)^{(τ/(N-1))^p} and √η_0 = min(noise/κ, noise). Steps are numbered τ = 0 … N-1.

    Args:
        num_steps: N, length of the chain: 15 in the published v1 and v2 models, 4 in v3.
        min_noise_level: Noise at τ = 0 (0.04 in v1 and v2, 0.2 in v3).
        kappa: κ, noise per unit of residual shift.
        power: p, warps the clock.
        eta_end: Limit of √η at the last step.

    Raises:
        ValueError: If num_steps < 2 or a level does not lie in its range.
    """

    def __init__(
        self,
        num_steps: int = 4,
        min_noise_level: float = 0.2,
        kappa: float = 2.0,
        power: float = 0.3,
        eta_end: float = 0.99,
    ) -> None:
        if num_steps < 2:
            raise ValueError(f"Expected num_steps >= 2, found {num_steps}.")
        first = min(min_noise_level / kappa, min_noise_level)
        if not 0 < first < eta_end < 1:
            raise ValueError(f"Expected 0 < √η_0 < eta_end < 1, found √η_0 = {first} and eta_end = {eta_end}.")
        self.num_steps = num_steps
        self.kappa = kappa
        clock = (torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)) ** power
        self.sqrt_etas = first * torch.exp(clock * math.log(eta_end / first))
        self.etas = self.sqrt_etas**2

    def _lookup(self, table: Tensor, step: Tensor, like: Tensor) -> Tensor:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return _expand(table.to(dtype).to(step.device)[step], like)

    def eta(self, step: Tensor, like: Tensor) -> Tensor:
        """Look up η_τ for steps of shape (B,); the result broadcasts against `like`."""
        return self._lookup(self.etas, step, like)

    def signal_to_noise(self, step: Tensor, like: Tensor) -> Tensor:
        """Look up SNR_τ for steps of shape (B,); the result broadcasts against `like`."""
        return self._lookup(self.snr, step, like)

    def add_noise(self, clean: Tensor, degraded: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """Forward process: w_τ = w_0 + η_τ (w_y - w_0) + κ √η_τ ε.

        Args:
            clean: w_0, shape (B, C, h, w).
            degraded: w_y, the latent of the upsampled low-quality image.
            noise: ε ~ N(0, I).
            step: Steps τ, shape (B,).
        """
        eta = self.eta(step, clean)
        return clean + eta * (degraded - clean) + self.kappa * eta.sqrt() * noise

    def scale_input(self, shifted: Tensor, step: Tensor) -> Tensor:
        """Bring w_τ to unit variance before the network sees it: w_τ / √(1 + κ² η_τ)."""
        return shifted / (1.0 + self.kappa**2 * self.eta(step, shifted)).sqrt()

    def posterior(self, shifted: Tensor, clean: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(w_{τ-1} | w_τ, w_0) (ResShift, Eq. 7).

        Args:
            shifted: w_τ.
            clean: w_0, or the network's estimate of it.
            step: Steps τ >= 1, shape (B,).
        """
        eta, previous = self.eta(step, shifted), self.eta(step - 1, shifted)
        alpha = eta - previous
        mean = previous / eta * shifted + alpha / eta * clean
        return mean, self.kappa * (previous * alpha / eta).sqrt()

    def linear_estimate(self, shifted: Tensor, degraded: Tensor, step: Tensor, residual_std: float) -> Tensor:
        """Posterior mean of w_0 if w_0 - w_y were Gaussian: w_y + k (w_τ - w_y) / (1 - η), k = σ² SNR / (1 + σ² SNR).

        Args:
            shifted: w_τ, shape (B, C, h, w).
            degraded: w_y.
            step: Steps τ, shape (B,).
            residual_std: σ, standard deviation of w_0 - w_y.
        """
        weighted = residual_std**2 * self.snr
        gain = self._lookup(weighted / ((1.0 + weighted) * (1.0 - self.etas)), step, shifted)
        return degraded + gain * (shifted - degraded)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio (1-η_τ)² / (κ² η_τ) of every step, float64, shape (N,)."""
        return (1.0 - self.etas) ** 2 / (self.kappa**2 * self.etas)

    def paired_step(self, alpha_bar: Tensor) -> Tensor:
        """Find the steps whose log SNR is nearest to that of a variance-preserving schedule.

        Args:
            alpha_bar: ᾱ_t of the other schedule, any shape with B elements.

        Returns:
            Steps τ, shape (B,).
        """
        target = torch.logit(alpha_bar.double().flatten())  # log ᾱ/(1-ᾱ)
        return (self.snr.log().to(target.device)[None] - target[:, None]).abs().argmin(dim=1)
