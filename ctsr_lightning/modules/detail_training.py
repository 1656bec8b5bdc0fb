"""Training of a codec's decoder alone, by an adversarial loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs.codec import signed_to_unit
from ctsr_lightning.losses.adversarial import adaptive_weight
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.models.restoration_model import RestorationModel
from ctsr_lightning.modules.adversarial_training import AdversarialTraining
from ctsr_lightning.networks.discriminator import Discriminator
from ctsr_lightning.networks.frozen import Frozen


class DetailTraining(AdversarialTraining):
    """Stage 2 of CCSR: the decoder learns, adversarially, to enhance the details of a frozen model's latents.

    The model may be any one that restores. Its latents z(t), t ~ U(0, t_max), are decoded by the decoder that learns:
    L_rec + λ_adv w L_G, with w = `adversarial.adaptive_weight`.

    What it leaves is loaded by `decoder: FILE` of a codec. Such a decoder does not undo the encoder any more, so this
    training comes last.

    Args:
        student: The model; its codec's decoder is trained, all else is frozen and absent from checkpoints: name its
            `weights`.
        discriminator: The discriminator.
        reconstruction: L_rec (CCSR: L1 + LPIPS).
        lambda_adv: λ_adv (CCSR's code: 0.5 with the adaptive weight, 0.05 without in version 2).
        lambda_disc: Weight of the discriminator's hinge losses (CCSR's code: 0.5).
        adaptive: Weigh L_G by w; false for w = 1.
        adversarial_after: Optimizer steps before L_G enters; the discriminator learns from the first one.
        t_max: Largest control of the latents, of a model with a slider. What is learned from smooth latents is
            too much for sharp ones; figures of t = 0 alone are in docs/train.md.
        **kwargs: As in `AdversarialTraining`.

    Raises:
        ValueError: If the codec's decoder cannot be trained by itself, or t_max leaves [0, 1] or is above 0 without a
            slider.
    """

    student: Frozen[RestorationModel]

    def __init__(
        self,
        student: RestorationModel,
        discriminator: Discriminator,
        reconstruction: Reconstruction,
        lambda_adv: float = 0.5,
        lambda_disc: float = 0.5,
        adaptive: bool = True,
        adversarial_after: int = 0,
        t_max: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, discriminator, lambda_adv, lambda_disc, **kwargs)
        if not 0.0 <= t_max <= (1.0 if self.controllable else 0.0):
            most = "in [0, 1]" if self.controllable else "of 0, as this model has no slider"
            raise ValueError(f"Expected a t_max {most}, found {t_max}.")
        self.student, self.t_max = Frozen(student), t_max
        self.codec = student.codec.train()  # evaluation mode a trainer would warn of
        self.codec.tune_decoder()
        self.reconstruction, self.adaptive, self.adversarial_after = reconstruction, adaptive, adversarial_after

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of L_rec, `adv`, and the discriminator's `disc/real` and `disc/fake`."""
        lq, gt = self.images(batch)
        restored = signed_to_unit(self.codec.decode(self._latent(lq, batch.key)))
        terms = self.reconstruction(restored, gt, self.codec.factor, self.draws.generator)
        reconstruction = torch.stack(list(terms.values())).sum()
        return {**terms, **self.adversarial_terms(restored, gt, lambda term: self._weight(reconstruction, term))}

    @torch.no_grad()
    def _latent(self, lq: Tensor, keys: list[str]) -> Tensor:
        student, generator = self.student.network, self.draws.generator
        control = self.t_max * float(torch.rand((), generator=generator, dtype=torch.float64)) if self.t_max else 0.0
        state = student.advance(student.begin(student.shared(lq, keys), generator), lq, keys)
        return student.latent_at(state, control)

    def _weight(self, reconstruction: Tensor, term: Tensor) -> Tensor | float:
        """w; 0 before L_G enters."""
        if self.global_step < self.adversarial_after:
            return 0.0
        last = self.codec.last_layer()
        return adaptive_weight(reconstruction, term, last) if self.adaptive and last is not None else 1.0
