"""Training of CCSR's structure stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.parametrization import to_noise
from ctsr_lightning.diffusion.schedule import structure_steps
from ctsr_lightning.models.few_step import FewStepStudent
from ctsr_lightning.modules.guided_prior import denoising_error
from ctsr_lightning.modules.student_training import StudentTraining


class StructureRefinement(StudentTraining):
    """CCSR's stage 1: the first step and the one after its jump learn ẑ_0, all below learn to denoise (Eq. 2-3).

    z_T = √ᾱ_T z + √(1-ᾱ_T) ε gives ẑ_T, which is noised anew to t_max, without stopping gradients, and gives ẑ_m:
    ‖ẑ_T - z_0‖² + ‖ẑ_m - z_0‖² + E ‖f(z_t, t) - target‖², t uniform below t_max. One, two or more steps then need
    no further training. The guide is z_L throughout.

    Args:
        student: The student; its first timestep is T. Give it the `weights` of `GuidedPrior`.
        t_max: Where the first step leads, as a share of the schedule.
        lambda_start: Weight of `structure/start`, ẑ_T's error.
        lambda_jump: Weight of `structure/jump`, ẑ_m's.
        lambda_denoise: Weight of `structure/denoise`.
        lambda_jump_noise: Weight of `structure/jump_noise`, the error of ε after the jump (CCSR v1); 0 leaves it out.
        start: z: the low-quality latent (CCSR v2), or the ground truth's (paper, v1), of which 7 % shine through.
        grids: Numbers of steps of `structure_steps`, to t = 1/2, that validation shows beside one step.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If `t_max` is not below T, or no step of a grid.
    """

    student: FewStepStudent
    fixed_references = False

    def __init__(
        self,
        student: FewStepStudent,
        t_max: float = 2 / 3,
        lambda_start: float = 1.0,
        lambda_jump: float = 1.0,
        lambda_denoise: float = 1.0,
        lambda_jump_noise: float = 0.0,
        start: Literal["lq", "truth"] = "lq",
        grids: Sequence[int] = (6, 12, 18),
        **kwargs: Any,
    ) -> None:
        super().__init__(student, **kwargs)
        self.jump = round(t_max * student.schedule.num_timesteps)
        if not 0 < self.jump < student.timesteps[0]:
            raise ValueError(
                f"Expected t_max above 0 and below the student's first timestep {student.timesteps[0]}, "
                f"found {t_max:g}, timestep {self.jump}. The paper has 2/3."
            )
        self.lambda_start, self.lambda_jump, self.lambda_denoise = lambda_start, lambda_jump, lambda_denoise
        self.lambda_jump_noise = lambda_jump_noise
        self.start = start
        self.chains = [student.timesteps[:1], *(structure_steps(grid, t_max) for grid in grids)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms: three calls of the denoiser."""
        student, draws = self.student, self.draws
        clean, lq_latent = student.encode(self.ground_truth(batch)), student.shared(batch.lq)
        prompt, last = student.prompt(batch.lq, batch.key), student.timesteps[0]
        start = student.noised(lq_latent if self.start == "lq" else clean, draws.normal(clean), last)
        first = student.estimate(start, last, prompt, lq_latent)
        noise = draws.normal(clean)
        jumped = student.noised(first, noise, self.jump)
        second = student.estimate(jumped, self.jump, prompt, lq_latent)
        timestep = draws.integers(0, self.jump - 1, clean)
        denoise = denoising_error(student, clean, draws.normal(clean), timestep, prompt, lq_latent)
        terms = {
            "structure/start": self.lambda_start * F.mse_loss(first, clean),
            "structure/jump": self.lambda_jump * F.mse_loss(second, clean),
            "structure/denoise": self.lambda_denoise * denoise,
        }
        if self.lambda_jump_noise > 0.0:
            alpha_bar = student.schedule.alpha_bars[self.jump].to(clean)
            found = to_noise(second, jumped, alpha_bar, "sample")
            terms["structure/jump_noise"] = self.lambda_jump_noise * F.mse_loss(found, noise)
        return terms

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """Restorations by other numbers of steps with the same weights."""
        return self.student.restore_by(self.chains, batch.lq, batch.key)
