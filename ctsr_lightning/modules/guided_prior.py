"""Training of the guided diffusion prior that few-step students start from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.parametrization import at_least_float32, training_target
from ctsr_lightning.models.few_step import FewStepStudent
from ctsr_lightning.modules.student_training import StudentTraining


def denoising_error(
    student: FewStepStudent, clean: Tensor, noise: Tensor, timestep: Tensor, prompt: Tensor | None, guide: Tensor
) -> Tensor:
    """Mean squared error of the denoiser in what it predicts (DDPM, Eq. 14).

    Args:
        student: The denoiser's owner.
        clean: z_0, shape (B, C, h, w).
        noise: ε.
        timestep: t, shape (B,).
        prompt: Embeddings, shape (B, L, D), or None.
        guide: g, as z_0.
    """
    output = student.denoiser(student.schedule.add_noise(clean, noise, timestep), timestep, prompt, guide)
    alpha_bar = student.schedule.alpha_bar(timestep, clean)
    return F.mse_loss(output, at_least_float32(training_target(clean, noise, alpha_bar, student.prediction)))


class GuidedPrior(StudentTraining):
    """Train a denoiser of ground truth that sees an image's latent g: E ‖f(z_t, t, g) - target‖², t uniform.

    g is z_L, as in ControlNet's training (CCSR), or for a share of the images the ground truth's own latent, so that
    the network can be AddSR's teacher, which is guided by that.

    Args:
        student: The network, in the form in which it will restore.
        truth_as_guide: Share of the images guided by the ground truth, in [0, 1].
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If the share leaves [0, 1].
    """

    student: FewStepStudent
    validates_losses = True

    def __init__(self, student: FewStepStudent, truth_as_guide: float = 0.5, **kwargs: Any) -> None:
        super().__init__(student, **kwargs)
        if not 0.0 <= truth_as_guide <= 1.0:
            raise ValueError(f"Expected truth_as_guide in [0, 1], found {truth_as_guide}.")
        self.truth_as_guide = truth_as_guide

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The denoising error on the latents of the ground truth."""
        student = self.student
        clean, lq_latent = student.encode(self.ground_truth(batch)), student.shared(batch.lq)
        by_truth = self.draws.uniform(clean) < self.truth_as_guide
        guide = torch.where(by_truth.view(-1, 1, 1, 1), clean, lq_latent)
        timestep = self.draws.integers(0, student.schedule.num_timesteps - 1, clean)
        prompt = student.prompt(batch.lq, batch.key)
        return {"prior/denoise": denoising_error(student, clean, self.draws.normal(clean), timestep, prompt, guide)}
