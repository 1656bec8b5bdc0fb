"""Training of the diffusion prior that student and realness teacher are built on."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.parametrization import at_least_float32, training_target
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.modules.student_training import StudentTraining


class PriorTraining(StudentTraining):
    """Train a latent diffusion model of clean photographs: E ‖f(z_t, t) - target‖² (DDPM, Eq. 14).

    What Stable Diffusion is to the full-size student, this is to one trained from nothing.

    Args:
        student: The network, in the form in which it will be distilled. Leave `lora` null to train every weight.
        **kwargs: Optimizer and scheduler.
    """

    student: OneStepStudent
    validates_losses = True

    def __init__(self, student: OneStepStudent, **kwargs: Any) -> None:
        super().__init__(student, **kwargs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The denoising error on the latents of the ground truth."""
        student = self.student
        clean = student.encode(self.ground_truth(batch))
        timestep = self.draws.integers(0, student.schedule.num_timesteps - 1, clean)
        noise = self.draws.normal(clean)
        noisy = student.schedule.add_noise(clean, noise, timestep)
        output = student.unet(noisy, timestep, student.prompt(batch.lq, batch.key)).sample
        target = training_target(clean, noise, student.schedule.alpha_bar(timestep, clean), student.prediction)
        return {"prior/denoise": F.mse_loss(at_least_float32(output), target)}
