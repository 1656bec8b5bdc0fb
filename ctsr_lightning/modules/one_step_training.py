"""Training of the realness teacher."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.cache.identity import identity
from ctsr_lightning.diffusion.parametrization import at_least_float32, to_clean, training_target
from ctsr_lightning.diffusion.schedule import PAPER_TIMESTEPS
from ctsr_lightning.images import InterpolationMode, quantize, upsample
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.losses.score_distillation import variational_score_distillation
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.modules.cacheable import CacheableTraining
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.guidance import Guidance
from ctsr_lightning.networks.lora import LoRA, add_unet_adapters
from ctsr_lightning.networks.sharing import refuse_shared
from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.teachers.base import Teacher


class OneStepTraining(CacheableTraining):
    """One-step distillation of a diffusion prior into a restorer: OSEDiff's L2 + LPIPS + VSD.

    Two networks learn side by side: the student, and a critic that follows the distribution of the student's latents
    (OSEDiff's regulariser). The student's terms do not reach the critic and the critic's term does not reach the
    student, so one optimizer with a parameter group each takes exactly the steps of two optimizers, while gradient
    accumulation, precision, resume and `global_step` keep their meaning. Gradients are clipped per group.

    With a `target` the student learns to paint an expert's pictures instead of the ground truth: the reconstruction
    terms compare with T(x_LR), rounded to 8 bits as in a file. So any restoration network becomes one that has a score
    and can judge in stage 1 (Eq. 2 and 3), and low-quality images do not need ground truth.

    Args:
        student: The restorer to train.
        reconstruction: L2 and LPIPS (OSEDiff, whose weights are Eq. 1's).
        prior: The frozen UNet of clean photographs; only needed for VSD.
        critic: A UNet that starts as the prior, of the same type.
        target: The expert to distil, such as an `ExpertTeacher`; null learns from ground truth (OSEDiff).
        critic_lora: Adapters of the critic, which freeze its base, first convolution included (OSEDiff); null trains
            every weight.
        upsample_modes: Kinds of interpolation that enlarge the low-quality images in training, one drawn for each
            image, so that no kernel's traces are learnt (OSEDiff: area, bilinear and bicubic, a = -0.75); none is
            the kernel that restores, bicubic with a = -0.5.
        clamp: Clip x̂ to [0, 1] before the reconstruction terms (OSEDiff), which then have no gradient beyond.
        symmetries: Mirror and turn every batch of square crops at random.
        lambda_vsd: Weight of variational score distillation (OSEDiff: 1); 0 leaves it out, and the critic with it.
        lambda_critic: Weight of the critic's denoising error (OSEDiff: 1).
        guidance: Classifier-free guidance of the prior (OSEDiff: 7.5), ε = ε_neg + g (ε_c - ε_neg), which makes VSD
            sharpen; 1 is none, for priors without prompts. The critic is not guided.
        negative_prompt: Source of the negative prompt that guidance leads away from.
        vsd_samples: How many samples of a process's batch VSD and the critic look at, which together cost more than the
            rest; null for all (OSEDiff).
        critic_lr: Learning rate of the critic; null takes the optimizer's.
        **kwargs: `cache`, with which the target is not run in training, optimizer and scheduler.

    Raises:
        ValueError: If the target is of another scale than the student, VSD lacks prior or critic, the critic is
            to be trained as a whole though it was loaded with `share`, there is guidance, but no prompt or no negative
            one, `vsd_samples` < 1, or there is a `cache`, but no target.
    """

    def __init__(
        self,
        student: OneStepStudent,
        reconstruction: Reconstruction,
        prior: UNet2DConditionModel | None = None,
        critic: UNet2DConditionModel | None = None,
        target: Teacher | None = None,
        critic_lora: LoRA | None = None,
        upsample_modes: tuple[InterpolationMode, ...] = (),
        clamp: bool = False,
        symmetries: bool = False,
        lambda_vsd: float = 1.0,
        lambda_critic: float = 1.0,
        guidance: float = 1.0,
        negative_prompt: Prompt | None = None,
        vsd_samples: int | None = None,
        critic_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if target is not None and target.scale != student.scale:
            raise ValueError(
                f"Expected a target with the student's scale {student.scale}, found {target.scale}. Set both alike."
            )
        if target is None and self.output_cache is not None:
            raise ValueError(
                f"Expected a `target`, whose outputs are in the cache '{self.output_cache.folder}', found none: name "
                "the teacher that the cache was made with, or leave `cache` out."
            )
        self.student, self.scale, self.target = student, student.scale, target
        self.prior, self.critic, self.guidance = None, None, None
        if lambda_vsd:
            if prior is None or critic is None:
                raise ValueError(
                    f"Expected `prior` and `critic` for variational score distillation (`lambda_vsd` {lambda_vsd:g}), "
                    "found null. Name them, or set `lambda_vsd` to 0 to train without."
                )
            if critic_lora is not None:
                add_unet_adapters(critic, critic_lora, train_conv_in=False)
            else:
                refuse_shared(critic, "critic_lora")
            self.prior, self.critic = Frozen(prior), critic
            self.guidance = Guidance(guidance, negative_prompt, student.prompt)
        self.reconstruction = reconstruction
        self.upsample_modes, self.clamp = upsample_modes, clamp
        self.symmetries = symmetries
        self.lambda_vsd, self.lambda_critic = lambda_vsd, lambda_critic
        if vsd_samples is not None and vsd_samples < 1:
            raise ValueError(f"Expected `vsd_samples` of at least 1, or null for the whole batch, found {vsd_samples}.")
        self.vsd_samples, self.critic_lr = vsd_samples, critic_lr

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's weights, and the critic's."""
        if self.critic is None:
            return super().parameter_groups()
        return self.groups_beside(self.critic.parameters(), self.critic_lr)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The student's terms, and the critic's one."""
        student, lq, goal = self.student, batch.lq, self._goal(batch)
        if self.symmetries:
            lq, goal = random_symmetry([lq, goal], self.draws.generator)
        clean = student.latent(lq, start=self._start(lq), keys=batch.key)
        restored = student.decode(clean)
        if self.clamp:
            restored = restored.clamp(0.0, 1.0)
        terms: dict[str, Tensor] = self.reconstruction(restored, goal, student.codec.factor, self.draws.generator)
        if self.lambda_vsd:
            some = slice(self.vsd_samples)
            vsd_latent, vsd_lq, vsd_keys = clean[some], lq[some], batch.key[some]
            prompt = student.prompt(vsd_lq, vsd_keys)
            terms["vsd"] = self.lambda_vsd * self._vsd(vsd_latent, prompt, vsd_lq, vsd_keys)
            terms["critic/denoise"] = self.lambda_critic * self._critic_loss(vsd_latent.detach(), prompt)
        return terms

    def _start(self, lq: Tensor) -> Tensor | None:
        """z_L of images that were each enlarged by a kernel drawn for it; None where the student's own is used."""
        if not self.upsample_modes:
            return None
        drawn = self.draws.integers(0, len(self.upsample_modes) - 1, torch.empty(len(lq)))  # on the CPU
        modes = [self.upsample_modes[index] for index in drawn.tolist()]
        enlarged = [upsample(image, self.scale, mode) for image, mode in zip(lq.split(1), modes, strict=True)]
        return self.student.start(lq, torch.cat(enlarged))

    def _goal(self, batch: Batch) -> Tensor:
        """The images to reconstruct, in [0, 1]: ground truth, or the target's pictures."""
        if self.target is None:
            return self.ground_truth(batch, "Name a `target`, whose pictures take its place.")
        if self.output_cache is None:
            return quantize(self.frozen_outputs(batch.lq, batch.key)["target"])
        (known,) = self.output_cache.read(batch.lq, "target")
        return known.to(batch.lq.dtype) / 255.0

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """The target, if there is one."""
        return {} if self.target is None else {"target": self.target}

    def cached_names(self, split: Literal["train", "val"], *, pictures: bool) -> list[str]:
        """The target's pictures of training images."""
        del pictures
        return ["target"] if split == "train" else []

    @torch.no_grad()
    def frozen_outputs(
        self,
        lq: Tensor,
        keys: list[str] | None = None,
        split: Literal["train", "val"] = "train",  # noqa: ARG002  # the interface
    ) -> dict[str, Tensor]:
        """The target's pictures, `target`.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
            split: Makes no difference.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
        assert self.target is not None
        return {"target": self.target.restore(lq, keys)}

    def cache_signature(self) -> dict[str, str]:
        """Scale and target."""
        assert self.target is not None
        return {"scale": str(self.scale), "target": identity(self.target)}

    def _vsd(self, clean: Tensor, prompt: Tensor | None, lq: Tensor, keys: list[str]) -> Tensor:
        """How far the guided prior would move ẑ away from where the critic sees it (OSEDiff, Eq. 8)."""
        student = self.student
        assert self.prior is not None
        assert self.critic is not None
        assert self.guidance is not None
        with torch.no_grad():
            timestep = self.draws.integers(*PAPER_TIMESTEPS, clean)
            noisy = student.schedule.add_noise(clean, self.draws.normal(clean), timestep)
            alpha_bar = student.schedule.alpha_bar(timestep, clean)
            condition = self.guidance.condition(prompt, lq, keys)
            output = self.guidance.predict(self.prior.network, noisy, timestep, condition)
            prior = to_clean(output, noisy, alpha_bar, student.prediction)
            critic = to_clean(self.critic(noisy, timestep, prompt).sample, noisy, alpha_bar, student.prediction)
        return variational_score_distillation(clean, prior, critic)

    def _critic_loss(self, clean: Tensor, prompt: Tensor | None) -> Tensor:
        """The critic's denoising error on the student's latents, at any timestep."""
        student = self.student
        assert self.critic is not None
        timestep = self.draws.integers(0, student.schedule.num_timesteps - 1, clean)
        noise = self.draws.normal(clean)
        noisy = student.schedule.add_noise(clean, noise, timestep)
        output = self.critic(noisy, timestep, prompt).sample
        target = training_target(clean, noise, student.schedule.alpha_bar(timestep, clean), student.prediction)
        return F.mse_loss(at_least_float32(output), target)

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore in one step."""
        return self.student.restore(lq, keys=keys)

    def references(self, batch: Batch) -> dict[str, Tensor]:
        """The target's pictures, if there is one."""
        return {} if self.target is None else {"target": self.target.restore(batch.lq, batch.key)}
