"""Training of a student of a few steps by adversarial diffusion distillation (AddSR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs.codec import signed_to_unit
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.models.few_step import FewStepStudent
from ctsr_lightning.modules.adversarial_training import AdversarialTraining
from ctsr_lightning.networks.discriminator import Discriminator
from ctsr_lightning.networks.frozen import Frozen

Forcing = Literal["truth", "own"]
"""What a step's input is in training: ground truth, noised, or the student's own estimate of the step before."""


class AdversarialDistillation(AdversarialTraining):
    """AddSR: one to four steps learn from a prior that is guided by the ground truth, and from a discriminator.

    A batch trains one step i, the first one half of the time, else any later one, whose guide comes from a pass of the
    step before, without gradient (self-refinement, `FewStepStudent.guide`; latents in place of the paper's images).
    From its estimate ẑ, x̂ = D(ẑ), noised to t ~ U{0..999} by the ε of step i, the teacher makes ẑ_ψ:
    d(i, t) ‖D(ẑ_ψ) - x̂‖² - λ_adv mean D_φ(x̂), with d(i, t) = w_i √ᾱ_t (Eq. 1 and 3).

    Args:
        student: The student; give it the `weights` of `GuidedPrior`.
        teacher: The prior, frozen and absent from checkpoints: the same `weights`, trained with `truth_as_guide`. It
            works in the student's latents and sees its prompt.
        discriminator: The discriminator.
        reconstruction: Terms against the ground truth, in no paper; null for none.
        step_weights: w_i, one for each of the student's timesteps (Eq. 3: μ ν^(i-1), μ = 0.5, ν = 2.1; the repository
            gives the first step the largest one, 4.6305, and the others 0.5, 1.05 and 2.205).
        lambda_adv: λ_adv.
        lambda_disc: Weight of the discriminator's hinge losses (repository: 1).
        teacher_draws: Numbers of t for each image (repository: 4), each a pass of the teacher and a decode.
        forcing: Input of a step: `truth`, the ground truth's latent, noised, as in the paper; `own`, as in
            restoration: all steps before are taken from z_L on, without gradient.
        **kwargs: As in `AdversarialTraining`.

    Raises:
        ValueError: If student and teacher differ in scale or latents, the number of weights is not that of the steps,
            `teacher_draws` is less than 1, or `own` meets a student that does not noise its estimates anew.
    """

    student: FewStepStudent
    fixed_references = False

    def __init__(
        self,
        student: FewStepStudent,
        teacher: FewStepStudent,
        discriminator: Discriminator,
        reconstruction: Reconstruction | None = None,
        step_weights: Sequence[float] = (0.5, 1.05, 2.205, 4.6305),
        lambda_adv: float = 0.02,
        lambda_disc: float = 1.0,
        teacher_draws: int = 1,
        forcing: Forcing = "truth",
        **kwargs: Any,
    ) -> None:
        super().__init__(student, discriminator, lambda_adv, lambda_disc, **kwargs)
        for name, mine, its in (
            ("scale", student.scale, teacher.scale),
            ("channels", student.codec.channels, teacher.codec.channels),
            ("factor", student.codec.factor, teacher.codec.factor),
        ):
            if mine != its:
                raise ValueError(f"Expected a teacher with the student's {name} {mine}, found {its}. Set both alike.")
        if len(step_weights) != len(student.timesteps):
            raise ValueError(
                f"Expected one of `step_weights` for each of the student's timesteps {list(student.timesteps)}, found "
                f"{list(step_weights)}. Eq. 3 has 0.5 * 2.1^(i-1)."
            )
        if teacher_draws < 1:
            raise ValueError(f"Expected teacher_draws of at least 1, found {teacher_draws}. The paper's code has 4.")
        if forcing == "own" and student.between != "renoise":
            raise ValueError(
                f"Expected a student with `between: renoise` for `forcing: own`, found {student.between}. "
                "Train it by `truth`, or set it so."
            )
        self.teacher, self.reconstruction = Frozen(teacher), reconstruction
        self.step_weights, self.teacher_draws = tuple(step_weights), teacher_draws
        self.forcing: Forcing = forcing

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`distill`, the terms of the reconstruction, `adv`, and the discriminator's `disc/real` and `disc/fake`."""
        student, (lq, gt) = self.student, self.images(batch)
        truth, lq_latent, prompt = student.encode(gt), student.shared(lq), student.prompt(lq, batch.key)
        index, noise = self._drawn_step(), self.draws.normal(truth)
        noisy, guide = self._input(index, truth, lq_latent, noise, prompt)
        clean = student.estimate(noisy, student.timesteps[index], prompt, guide)
        restored = signed_to_unit(student.codec.decode(clean))
        distill = self.step_weights[index] * self._distillation(restored, clean.detach(), truth, noise, prompt)
        terms = {"distill": distill}
        if self.reconstruction is not None:
            terms |= self.reconstruction(restored, gt, student.codec.factor, self.draws.generator)
        return {**terms, **self.adversarial_terms(restored, gt)}

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """Restorations by one step, by two, and so on."""
        steps = self.student.timesteps
        return self.student.restore_by([steps[:n] for n in range(1, len(steps) + 1)], batch.lq, batch.key)

    def _drawn_step(self) -> int:
        """Index of the step that this batch trains, the same in all processes."""
        later = len(self.student.timesteps) - 1
        drawn = int(torch.randint(0, 2 * later, (), generator=self.draws.generator)) if later else -1
        return max(0, drawn - later + 1)

    @torch.no_grad()
    def _input(
        self, index: int, truth: Tensor, lq_latent: Tensor, noise: Tensor, prompt: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Input and guide of a step."""
        student, steps, before = self.student, self.student.timesteps, None
        if self.forcing == "truth":
            if index:
                step = steps[index - 1]
                before = student.estimate(student.noised(truth, noise, step), step, prompt, lq_latent)
            noisy = student.noised(truth, noise, steps[index])
        elif index:
            chain = self.draws.normal(lq_latent.repeat(1, index, 1, 1))
            before = student.estimates(lq_latent, chain, prompt, steps[:index])[-1]
            noisy = student.noised(before, student.temperature * noise, steps[index])
        else:
            noisy = student.first_input(lq_latent, noise, steps[0])
        return noisy, student.guide(lq_latent, before)

    def _distillation(
        self, restored: Tensor, clean: Tensor, truth: Tensor, noise: Tensor, prompt: Tensor | None
    ) -> Tensor:
        """Mean over images and t of √ᾱ_t ‖D(ẑ_ψ) - x̂‖², of images in [0, 1]."""
        teacher, errors = self.teacher.network, []
        for _ in range(self.teacher_draws):
            timestep = self.draws.integers(0, teacher.schedule.num_timesteps - 1, clean)
            with torch.no_grad():
                latent = teacher.estimate(teacher.noised(clean, noise, timestep), timestep, prompt, truth)
                target = signed_to_unit(self.student.codec.decode(latent))
            weight = teacher.schedule.alpha_bar(timestep, restored).sqrt()
            errors.append((weight * (target - restored).square()).mean())
        return torch.stack(errors).mean()
