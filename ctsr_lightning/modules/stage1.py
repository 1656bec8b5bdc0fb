"""Stage 1: distillation of two teachers into one student."""

from __future__ import annotations

import logging
from typing import Any, Final

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.diffusion.schedule import PAPER_TIMESTEPS
from ctsr_lightning.losses import score_distillation
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.modules.noise_errors import BANDS, noise_errors
from ctsr_lightning.teachers.base import Gradient, Teacher

_log: Final = logging.getLogger(__name__)


class CTSRStage1(RestorationModule):
    """Stage 1 of CTSR: a faithful and a realistic teacher pull one student (Eq. 1-4, Algorithm 1).

    L_s1 = λ_l2 ‖x̂ - x_GT‖² + λ_lp ℓ(x̂, x_GT)
    + Σ_k λ_k (‖ε_Tk(z_t^s) - ε_S(z_t^s)‖² + γ_time ‖ε_Tk(z_t^s) - ε_Tk(z_t)‖²)
    for k in {fidelity, realness}, with t ~ U{20..979} and one ε for both z_t^s (from ẑ) and z_t (from E(x_GT)).
    Terms are logged as `rec/l2`, `rec/lpips` (or the stand-in's name), `fidelity/align`, `fidelity/prior`,
    `realness/align` and `realness/prior`, each with its weight. As the student starts as T_r, `realness/align` starts
    at 0.

    Before the first step each teacher's noise error on the first batch is said by band of t, see `noise_errors`, with a
    warning where it exceeds 1, and logged as `score/<teacher>/t<first>-<last>`. In every step `snr_mismatch/<teacher>`,
    the mean of SNR_t / SNR_τ over this process's batch, tells how far the noise level of a teacher with a chain of its
    own is from t's.

    Args:
        student: S; give it T_r's weights to start from, as Algorithm 1 does.
        fidelity: T_f.
        realness: T_r.
        reconstruction: Eq. 1, the first line of L_s1.
        lambda_fidelity: λ_fl (paper: 2).
        lambda_realness: λ_rn (paper: 1).
        gamma_time: γ_time (paper: 5.5).
        gradient: `paper` is Eq. 2 to the letter: gradients with respect to z_t^s flow through the teachers, and
            through ε_S. `score` keeps every value but descends as score distillation does, which also saves the
            teachers' memory: the identity stands for the teachers' Jacobian and ε_S does not follow z_t^s, so that
            align moves z_t^s along ε_T - ε_S, the direction of variational score distillation, and ε_S to ε_T; see
            `losses.score_distillation.align`.
        **kwargs: Optimizer and scheduler.
    """

    def __init__(
        self,
        student: OneStepStudent,
        fidelity: Teacher,
        realness: Teacher,
        reconstruction: Reconstruction,
        lambda_fidelity: float = 2.0,
        lambda_realness: float = 1.0,
        gamma_time: float = 5.5,
        gradient: Gradient = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, teacher in (("fidelity", fidelity), ("realness", realness)):
            if teacher.scale != student.scale:
                raise ValueError(
                    f"Expected a {name} teacher with the student's scale {student.scale}, found {teacher.scale}. "
                    "Set both alike."
                )
        self.student, self.scale = student, student.scale
        self.teachers = torch.nn.ModuleDict({"fidelity": fidelity, "realness": realness})
        self.reconstruction = reconstruction
        self.weights = {"fidelity": lambda_fidelity, "realness": lambda_realness}
        self.gamma_time = gamma_time
        self.gradient: Gradient = gradient
        self._snr_mismatch: dict[str, Tensor] = {}

    @property
    def _judges(self) -> list[str]:
        """The teachers that have a weight."""
        return [name for name, weight in self.weights.items() if weight]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Say before the first step, and so not again after a resumption, how good the teachers' scores are."""
        if self.current_epoch or batch_idx or not self.trainer.is_global_zero or batch.gt is None:
            return
        with self.trainer.precision_plugin.forward_context():
            clean = self.student.encode(batch.gt)
            for name in self._judges:
                teacher = self.teachers[name]
                assert isinstance(teacher, Teacher)
                self._say(name, noise_errors(teacher, self.student.schedule, clean, batch))

    def _say(self, name: str, errors: list[float]) -> None:
        """Print and log a teacher's noise errors."""
        bands = [f"{first}-{last}" for first, last in BANDS]
        found = [f"{error:.2f} at t {band}" for band, error in zip(bands, errors, strict=True)]
        rank_zero_info(f"Noise error of the {name} teacher (1 is that of answering zero): {', '.join(found)}.")
        if bad := [text for text, error in zip(found, errors, strict=True) if not error <= 1.0]:
            _log.warning(
                f"Expected noise errors below 1 from the {name} teacher, found {', '.join(bad)}. It is no score there: "
                "its align and prior terms are not what their names say. A lower weight limits what that does, and the "
                "`clip` of a ResShift teacher at low t; a OneStepTeacher may be given a `score` trained at all t."
            )
        for logger in self.loggers:
            values = {f"score/{name}/t{band}": error for band, error in zip(bands, errors, strict=True)}
            logger.log_metrics(values, step=0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The six terms of Eq. 4; a teacher whose λ is 0 is not run."""
        student, gt = self.student, self.ground_truth(batch)
        clean_s, clean = student.latent(batch.lq, keys=batch.key), student.encode(gt)
        restored = student.decode(clean_s)
        terms = self.reconstruction(restored, gt, student.codec.factor, self.draws.generator)
        if not self._judges:
            return terms
        timestep = self.draws.integers(*PAPER_TIMESTEPS, clean)
        noise = self.draws.normal(clean)
        noisy_s = add_noise(student.schedule, clean_s, noise, timestep, restored)
        noisy = add_noise(student.schedule, clean, noise, timestep, gt)
        judged = noisy_s.latent if self.gradient == "paper" else noisy_s.latent.detach()
        noise_s = student.predict_noise(judged, timestep, student.prompt(batch.lq, batch.key))
        for name in self._judges:
            teacher, weight = self.teachers[name], self.weights[name]
            assert isinstance(teacher, Teacher)
            with torch.no_grad():
                condition = teacher.condition(batch.lq, batch.key)
            targets = teacher.targets(noisy_s, noisy, condition, self.gradient, self.draws.normal)
            align_weight, mismatch = teacher.align_weight(noisy.alpha_bar), teacher.snr_mismatch(noisy.alpha_bar)
            if mismatch is not None:
                self._snr_mismatch[f"snr_mismatch/{name}"] = mismatch.mean()
            terms[f"{name}/align"] = weight * score_distillation.align(targets.align, noise_s, align_weight)
            terms[f"{name}/prior"] = (
                weight * self.gamma_time * score_distillation.prior(targets.prior, targets.prior_gt)
            )
        return terms

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log how well the teachers' noise levels fit, without waiting for the device or other processes."""
        self.log_dict(self._snr_mismatch, on_step=True, on_epoch=False, batch_size=1)
        super().on_train_batch_end(outputs, batch, batch_idx)

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """S(x_LR)."""
        return self.student.restore(lq, keys=keys)

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """Both teachers' restorations."""
        fidelity, realness = self.teachers["fidelity"], self.teachers["realness"]
        assert isinstance(fidelity, Teacher)
        assert isinstance(realness, Teacher)
        return {"T_f": fidelity.restore(batch.lq, batch.key), "T_r": realness.restore(batch.lq, batch.key)}
