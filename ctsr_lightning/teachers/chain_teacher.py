"""Base of the teachers that predict clean latents on ResShift's chain, and the weight of Eq. 2 for them."""

from __future__ import annotations

from torch import Tensor

from ctsr_lightning.diffusion.parametrization import min_snr, signal_to_noise
from ctsr_lightning.diffusion.schedule import ResShiftSchedule
from ctsr_lightning.teachers.base import Teacher


class ChainTeacher(Teacher):
    """A teacher with ResShift's chain of noise levels instead of the student's.

    Both terms of Eq. 2 compare noises, ε̂ = ε + √SNR (w - ŵ), so that an error of a clean latent weighs the SNR at which
    it was made: SNR_τ in the second term, where the teacher is compared with itself, and SNR_t in the first, where it
    is compared with the student. `clip` limits both weights, min(SNR, clip).

    Args:
        schedule: The chain.
        scale: Enlargement.
        clip: Upper limit of the weights; None for none.
        seed: Seed of the noise of `restore`.

    Raises:
        ValueError: If `clip` is not positive.
    """

    def __init__(self, schedule: ResShiftSchedule, scale: int, clip: float | None, seed: int) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(
                f"Expected clip > 0, or null for no limit, found {clip}. To switch the term off, set lambda_fidelity "
                "or gamma_time to 0."
            )
        self.schedule, self.scale, self.clip, self.seed = schedule, scale, clip, seed

    def prior_weight(self, step: Tensor, like: Tensor) -> Tensor:
        """min(SNR_τ, clip), the weight of the second term's ‖(w^s - ŵ^s) - (w - ŵ)‖².

        Args:
            step: Steps τ, shape (B,).
            like: A latent; the result broadcasts against it.
        """
        return min_snr(self.schedule.signal_to_noise(step, like), self.clip)

    def align_weight(self, alpha_bar: Tensor) -> Tensor | None:
        """min(SNR_t, clip) / SNR_t, as ‖ε_T - ε_S‖² itself has the weight SNR_t."""
        snr = signal_to_noise(alpha_bar)
        return None if self.clip is None else min_snr(snr, self.clip) / snr

    def snr_mismatch(self, alpha_bar: Tensor) -> Tensor:
        """SNR_t / SNR_τ, shape (B, 1, 1, 1)."""
        step = self.schedule.paired_step(alpha_bar)
        return signal_to_noise(alpha_bar) / self.schedule.signal_to_noise(step, alpha_bar)
