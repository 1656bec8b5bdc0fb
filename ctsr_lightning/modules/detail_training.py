"""Training of a codec's decoder alone, by an adversarial loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs.codec import signed_to_unit
from ctsr_lightning.losses import adversarial
from ctsr_lightning.losses.random_views import random_symmetry, random_view
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.models.restoration_model import RestorationModel
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.discriminator import Discriminator
from ctsr_lightning.networks.frozen import Frozen


class DetailTraining(RestorationModule):
    """Stage 2 of CCSR: the decoder learns, adversarially, to enhance the details of a frozen model's latents.

    The model may be any one that restores. Its latents z(t), at t ~ U(0, 1) where it has a slider, are decoded by the
    decoder that learns: L_rec + λ_adv w L_G, with w = `adversarial.adaptive_weight`. The discriminator learns beside
    it: the generator's term sees its weights detached, its own terms the image detached. One optimizer with a
    parameter group each so takes the steps of "decoder, then discriminator on the same images" by two.

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
        random_views: Show the discriminator random views of the images, see `losses.random_views`.
        symmetries: Mirror and turn every batch of square crops at random.
        disc_lr: Learning rate of the discriminator; null takes the optimizer's.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If the codec's decoder cannot be trained by itself.
    """

    def __init__(
        self,
        student: RestorationModel,
        discriminator: Discriminator,
        reconstruction: Reconstruction,
        lambda_adv: float = 0.5,
        lambda_disc: float = 0.5,
        adaptive: bool = True,
        adversarial_after: int = 0,
        random_views: bool = False,
        symmetries: bool = False,
        disc_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.student, self.scale, self.method = Frozen(student), student.scale, student.method
        self.codec = student.codec.train()  # evaluation mode a trainer would warn of
        self.codec.tune_decoder()
        self.controllable = student.control_kind != "none"
        self.discriminator, self.reconstruction = discriminator, reconstruction
        self.lambda_adv, self.lambda_disc, self.adaptive = lambda_adv, lambda_disc, adaptive
        self.adversarial_after, self.disc_lr = adversarial_after, disc_lr
        self.random_views, self.symmetries = random_views, symmetries

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The decoder's weights, and the discriminator's."""
        discriminator: dict[str, Any] = {"params": list(self.discriminator.parameters())}
        if self.disc_lr is not None:
            discriminator["lr"] = self.disc_lr
        return [{"params": [p for p in self.codec.parameters() if p.requires_grad]}, discriminator]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of L_rec, `adv`, and the discriminator's `disc/real` and `disc/fake`."""
        lq, gt, generator = batch.lq, self.ground_truth(batch), self.draws.generator
        if self.symmetries:
            lq, gt = random_symmetry([lq, gt], generator)
        restored = signed_to_unit(self.codec.decode(self._latent(lq, batch.key)))
        terms: dict[str, Tensor] = self.reconstruction(restored, gt, self.codec.factor, generator)
        seen, truth = random_view(restored, gt, generator) if self.random_views else (restored, gt)
        fake = self.discriminator.maps(seen)
        with torch.no_grad():
            real = self.discriminator.maps(truth)
        terms["adv"] = self._generator_term(torch.stack(list(terms.values())).sum(), fake)
        disc = self.discriminator
        terms["disc/real"] = self.lambda_disc * adversarial.hinge_real(disc(real))
        terms["disc/fake"] = self.lambda_disc * adversarial.hinge_fake(disc([found.detach() for found in fake]))
        return terms

    @torch.no_grad()
    def _latent(self, lq: Tensor, keys: list[str]) -> Tensor:
        student, generator = self.student.network, self.draws.generator
        control = float(torch.rand((), generator=generator, dtype=torch.float64)) if self.controllable else 0.0
        state = student.advance(student.begin(student.shared(lq, keys), generator), lq, keys)
        return student.latent_at(state, control)

    def _generator_term(self, reconstruction: Tensor, fake: list[Tensor]) -> Tensor:
        """λ_adv w L_G; 0 before it enters."""
        if self.global_step < self.adversarial_after:
            return torch.zeros_like(reconstruction)
        term, last = adversarial.generator(self.discriminator.detached(fake)), self.codec.last_layer()
        if self.adaptive and last is not None:
            term = term * adversarial.adaptive_weight(reconstruction, term, last)
        return self.lambda_adv * term

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore at t = 0."""
        return self.student.network.restore(lq, keys=keys)

    def sweep(self, lq: Tensor, controls: Sequence[float], keys: list[str] | None = None) -> list[Tensor]:
        """Restore at several values of t."""
        return self.student.network.sweep(lq, controls, keys)
