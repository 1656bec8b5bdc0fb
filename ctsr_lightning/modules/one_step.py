"""Training of the realness teacher."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.parametrization import to_clean, training_target, wide
from ctsr_lightning.diffusion.schedule import PAPER_TIMESTEPS
from ctsr_lightning.losses import reconstruction
from ctsr_lightning.losses.score_distillation import variational_score_distillation
from ctsr_lightning.losses.views import random_view
from ctsr_lightning.metrics.perceptual import PerceptualDistance
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.adapters import LoRA, add_unet_adapters
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.sharing import refuse_shared
from ctsr_lightning.networks.student import OneStepStudent


class OneStep(RestorationModule):
    """One-step distillation of a diffusion prior into a restorer: OSEDiff's L2 + LPIPS + VSD.

    Two networks learn side by side: the student, and a critic that follows the distribution of the student's latents
    (OSEDiff's regulariser). The student's terms do not reach the critic and the critic's term does not reach the
    student, so one optimizer with a parameter group each takes exactly the steps of two optimizers, while gradient
    accumulation, precision, resume and `global_step` keep their meaning. Gradients are clipped per group.

    Args:
        student: The restorer to train.
        prior: The frozen UNet of clean photographs.
        critic: A UNet that starts as the prior.
        perceptual: LPIPS or its stand-in.
        critic_lora: Adapters of the critic, which freeze its base; null trains every weight.
        lambda_l2: Weight of the mean squared error (OSEDiff: 1).
        lambda_lpips: Weight of the perceptual distance (OSEDiff: 2).
        lambda_grid: Weight of the term against patches that show, see `losses.reconstruction.grid`; 0, as in OSEDiff,
            leaves it out.
        lambda_pattern: Weight of the term against errors that repeat from patch to patch, see
            `losses.reconstruction.pattern`; 0 leaves it out. Not in OSEDiff.
        random_views: Take the perceptual distance of random views of the images (E-LPIPS), see `losses.views`, so that
            the student cannot fool it with a pattern. Not in OSEDiff.
        lambda_vsd: Weight of variational score distillation (OSEDiff: 1).
        lambda_critic: Weight of the critic's denoising error (OSEDiff: 1).
        vsd_samples: How many samples of a process's batch VSD and the critic look at, which together cost more than the
            rest; null for all (OSEDiff).
        critic_lr: Learning rate of the critic; null takes the optimizer's.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If the critic is to be trained as a whole though it was loaded with `share`, or `vsd_samples` < 1.
    """

    def __init__(
        self,
        student: OneStepStudent,
        prior: UNet2DConditionModel,
        critic: UNet2DConditionModel,
        perceptual: PerceptualDistance,
        critic_lora: LoRA | None = None,
        lambda_l2: float = 1.0,
        lambda_lpips: float = 2.0,
        lambda_grid: float = 0.0,
        lambda_pattern: float = 0.0,
        random_views: bool = False,
        lambda_vsd: float = 1.0,
        lambda_critic: float = 1.0,
        vsd_samples: int | None = None,
        critic_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.student, self.scale = student, student.scale
        self.prior, self.critic = Frozen(prior), critic
        if critic_lora is not None:
            add_unet_adapters(critic, critic_lora)
        else:
            refuse_shared(critic, "critic_lora")
        self.perceptual = Frozen(perceptual)
        self.lambda_l2, self.lambda_lpips, self.lambda_grid = lambda_l2, lambda_lpips, lambda_grid
        self.lambda_pattern, self.random_views = lambda_pattern, random_views
        self.lambda_vsd, self.lambda_critic = lambda_vsd, lambda_critic
        if vsd_samples is not None and vsd_samples < 1:
            raise ValueError(f"Expected `vsd_samples` of at least 1, or null for the whole batch, found {vsd_samples}.")
        self.vsd_samples, self.critic_lr = vsd_samples, critic_lr

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's weights, and the critic's."""
        student = {"params": [p for p in self.student.parameters() if p.requires_grad]}
        critic: dict[str, Any] = {"params": [p for p in self.critic.parameters() if p.requires_grad]}
        if self.critic_lr is not None:
            critic["lr"] = self.critic_lr
        return [student, critic]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The student's three terms and the critic's one."""
        if batch.gt is None:
            raise ValueError("The realness teacher trains on ground truth, but this batch has none.")
        student = self.student
        clean = student.latent(batch.lq, keys=batch.key)
        restored = student.decode(clean)
        prompt = student.prompt(batch.lq, batch.key)
        seen, shown = clean[: self.vsd_samples], None if prompt is None else prompt[: self.vsd_samples]
        perceptual_name = "lpips" if self.perceptual.network.name.startswith("lpips") else self.perceptual.network.name
        looked_at = (restored, batch.gt)
        if self.random_views:
            looked_at = random_view(restored, batch.gt, self.draws.generator)
        terms = {
            "rec/l2": self.lambda_l2 * reconstruction.l2(restored, batch.gt),
            f"rec/{perceptual_name}": self.lambda_lpips * self.perceptual(*looked_at).mean(),
            "vsd": self.lambda_vsd * self._vsd(seen, shown),
            "critic/denoise": self.lambda_critic * self._critic_loss(seen.detach(), shown),
        }
        if self.lambda_grid:
            terms["rec/grid"] = self.lambda_grid * reconstruction.grid(restored, batch.gt, student.codec.factor)
        if self.lambda_pattern:
            terms["rec/pattern"] = self.lambda_pattern * reconstruction.pattern(
                restored, batch.gt, student.codec.factor
            )
        return terms

    def _vsd(self, clean: Tensor, prompt: Tensor | None) -> Tensor:
        """How far the prior would move ẑ away from where the critic sees it (OSEDiff, Eq. 8)."""
        student = self.student
        with torch.no_grad():
            timestep = self.draws.integers(*PAPER_TIMESTEPS, clean)
            noisy = student.schedule.add_noise(clean, self.draws.normal(clean), timestep)
            alpha_bar = student.schedule.alpha_bar(timestep, clean)
            prior = to_clean(self.prior(noisy, timestep, prompt).sample, noisy, alpha_bar, student.prediction)
            critic = to_clean(self.critic(noisy, timestep, prompt).sample, noisy, alpha_bar, student.prediction)
        return variational_score_distillation(clean, prior, critic)

    def _critic_loss(self, clean: Tensor, prompt: Tensor | None) -> Tensor:
        """The critic's denoising error on the student's latents, at any timestep."""
        student = self.student
        timestep = self.draws.integers(0, student.schedule.num_timesteps - 1, clean)
        noise = self.draws.normal(clean)
        noisy = student.schedule.add_noise(clean, noise, timestep)
        output = self.critic(noisy, timestep, prompt).sample
        target = training_target(clean, noise, student.schedule.alpha_bar(timestep, clean), student.prediction)
        return F.mse_loss(wide(output), target)

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore in one step."""
        return self.student.restore(lq, keys)
