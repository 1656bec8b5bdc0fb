"""What trainings with a discriminator have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.losses import adversarial
from ctsr_lightning.losses.random_views import random_symmetry, random_view
from ctsr_lightning.models.restoration_model import RestorationModel
from ctsr_lightning.modules.student_training import StudentTraining
from ctsr_lightning.networks.discriminator import Discriminator


class AdversarialTraining(StudentTraining):
    """A training of a model beside a discriminator that tells its images from ground truth.

    The generator's term sees the discriminator's weights detached, its own terms the image detached. One optimizer with
    a parameter group each so takes the steps of "generator, then discriminator on the same images" by two.

    Args:
        student: The model.
        discriminator: The discriminator.
        lambda_adv: Weight of the generator's term.
        lambda_disc: Weight of the discriminator's hinge losses.
        random_views: Show the discriminator random views of the images, see `losses.random_views`.
        symmetries: Mirror and turn every batch of square crops at random.
        disc_lr: Learning rate of the discriminator; null takes the optimizer's.
        **kwargs: Optimizer and scheduler.
    """

    def __init__(
        self,
        student: RestorationModel,
        discriminator: Discriminator,
        lambda_adv: float,
        lambda_disc: float,
        random_views: bool = False,
        symmetries: bool = False,
        disc_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, **kwargs)
        self.discriminator, self.lambda_adv, self.lambda_disc = discriminator, lambda_adv, lambda_disc
        self.random_views, self.symmetries, self.disc_lr = random_views, symmetries, disc_lr

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The generator's weights, and the discriminator's."""
        return self.groups_beside(self.discriminator.parameters(), self.disc_lr)

    def images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Low-quality images and ground truth in [0, 1], mirrored and turned alike with `symmetries`."""
        pair = [batch.lq, self.ground_truth(batch)]
        lq, gt = random_symmetry(pair, self.draws.generator) if self.symmetries else pair
        return lq, gt

    def adversarial_terms(
        self, restored: Tensor, gt: Tensor, weight: Callable[[Tensor], Tensor | float] = lambda _: 1.0
    ) -> dict[str, Tensor]:
        """The generator's `adv` and the discriminator's `disc/real` and `disc/fake`, weighted.

        Args:
            restored: x̂ in [0, 1], shape (B, 3, H, W).
            gt: x_GT in [0, 1].
            weight: A further factor of `adv`, as a function of L_G = -mean D(x̂).
        """
        seen, truth = random_view(restored, gt, self.draws.generator) if self.random_views else (restored, gt)
        disc = self.discriminator
        fake = disc.maps(seen)
        with torch.no_grad():
            real = disc.maps(truth)
        term = adversarial.generator(disc.detached(fake))
        return {
            "adv": self.lambda_adv * weight(term) * term,
            "disc/real": self.lambda_disc * adversarial.hinge_real(disc(real)),
            "disc/fake": self.lambda_disc * adversarial.hinge_fake(disc([found.detach() for found in fake])),
        }
