"""A teacher: bicubic enlargement, as faithful as a restoration without a prior can be."""

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.codecs.codec import LatentCodec, unit_to_signed
from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import noise_from_clean
from ctsr_lightning.images import upsample
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets, latent_space_targets


class BicubicTeacher(Teacher):
    """T_f = up: whatever the noise level, the clean latent is taken to be E(up(x_LR)).

    Args:
        codec: The autoencoder of the student's latent space.
        scale: Enlargement, that of student and data.
    """

    def __init__(self, codec: LatentCodec, scale: int = 4) -> None:
        super().__init__()
        self.frozen, self.scale = Frozen(codec), scale  # Frozen: in no optimizer, in no checkpoint

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""
        return self.frozen.network.factor

    @torch.no_grad()
    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """E(up(x_LR)), once per batch."""
        return self.frozen.network.encode(unit_to_signed(upsample(lq, self.scale)))

    def targets(
        self, student: Noisy, gt: Noisy, condition: Tensor, gradient: Gradient, normal: Callable[[Tensor], Tensor]
    ) -> TeacherTargets:
        """ε_T = (z_t - √ᾱ E(up(x_LR))) / √(1-ᾱ) for both terms of Eq. 2: what stage 1 needs."""
        return latent_space_targets(
            lambda noisy: noise_from_clean(noisy.latent, condition, noisy.alpha_bar), student, gt, gradient
        )

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """x_1 of Eq. 5: what stage 2 needs."""
        return upsample(lq, self.scale)
