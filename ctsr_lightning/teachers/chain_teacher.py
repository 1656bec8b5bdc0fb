"""Bases of the teachers that predict clean latents, on ResShift's chain or not, and the weight of Eq. 2 for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import implied_noise, min_snr, signal_to_noise
from ctsr_lightning.diffusion.schedule import ResShiftSchedule
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets, through_identity


class CleanTeacher(Teacher):
    """A teacher that predicts clean latents.

    Both terms of Eq. 2 compare noises, ε̂ = ε + √SNR (w - ŵ), so that an error of a clean latent weighs an SNR, which
    `clip` limits: min(SNR, clip).

    Args:
        scale: Enlargement.
        clip: Upper limit of the weights; None for none.
        seed: Seed of the noise of `restore`.

    Raises:
        ValueError: If `clip` is not positive.
    """

    def __init__(self, scale: int, clip: float | None, seed: int) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(
                f"Expected clip > 0, or null for no limit, found {clip}. To switch the term off, set lambda_fidelity "
                "or gamma_time to 0."
            )
        self.scale, self.clip, self.seed = scale, clip, seed

    def align_weight(self, alpha_bar: Tensor) -> Tensor | None:
        """min(SNR_t, clip) / SNR_t, as ‖ε_T - ε_S‖² itself has the weight SNR_t."""
        snr = signal_to_noise(alpha_bar)
        return None if self.clip is None else min_snr(snr, self.clip) / snr


def clean_targets(
    predict_clean: Callable[[Noisy], Tensor], student: Noisy, gt: Noisy, weight: Tensor, gradient: Gradient
) -> TeacherTargets:
    """Targets of a teacher that predicts clean latents in the student's own space.

    Args:
        predict_clean: ẑ_0 of a noised latent.
        student: z_t^s, from the student's restoration.
        gt: z_t, from the ground truth.
        weight: Weight of the second term's squared error, broadcastable; that of the first is SNR_t.
        gradient: Whether gradients flow through `predict_clean`.
    """
    with torch.no_grad():
        prior_gt = implied_noise(gt.noise, gt.clean, predict_clean(gt), weight)
    with torch.set_grad_enabled(gradient == "paper" and torch.is_grad_enabled()):
        predicted = predict_clean(student)
        align = implied_noise(student.noise, student.clean, predicted, signal_to_noise(student.alpha_bar))
        prior = implied_noise(student.noise, student.clean, predicted, weight)
    if gradient == "score":
        align, prior = (through_identity(noise, student.latent) for noise in (align, prior))
    return TeacherTargets(align, prior, prior_gt)


class ChainTeacher(CleanTeacher):
    """A teacher with ResShift's chain of noise levels instead of the student's.

    An error of a clean latent weighs the SNR at which it was made: SNR_τ in the second term, where the teacher is
    compared with itself, and SNR_t in the first, where it is compared with the student.

    Args:
        schedule: The chain.
        scale: Enlargement.
        clip: Upper limit of the weights; None for none.
        seed: Seed of the noise of `restore`.

    Raises:
        ValueError: If `clip` is not positive.
    """

    def __init__(self, schedule: ResShiftSchedule, scale: int, clip: float | None, seed: int) -> None:
        super().__init__(scale, clip, seed)
        self.schedule = schedule

    def prior_weight(self, step: Tensor, like: Tensor) -> Tensor:
        """min(SNR_τ, clip), the weight of the second term's ‖(w^s - ŵ^s) - (w - ŵ)‖².

        Args:
            step: Steps τ, shape (B,).
            like: A latent; the result broadcasts against it.
        """
        return min_snr(self.schedule.signal_to_noise(step, like), self.clip)

    def snr_mismatch(self, alpha_bar: Tensor) -> Tensor:
        """SNR_t / SNR_τ, shape (B, 1, 1, 1)."""
        step = self.schedule.paired_step(alpha_bar)
        return signal_to_noise(alpha_bar) / self.schedule.signal_to_noise(step, alpha_bar)
