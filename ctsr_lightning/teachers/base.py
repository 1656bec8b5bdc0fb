"""Interface of teachers: restorations, and the noise predictions that Eq. 2-3 compare with the student's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctsr_lightning.diffusion.noising import Noisy

Gradient = Literal["paper", "score"]
"""How stage 1 descends: `paper` through the networks that judge z_t, `score` past them."""


class TeacherTargets(NamedTuple):
    """A teacher's side of Eq. 2 and 3."""

    align: Tensor
    """ε_T(z_t^s, t, c) in the student's latent space and schedule, float32: compared with ε_S."""
    prior: Tensor
    """ε_T(z_t^s, t, c), float32, in the space in which the teacher lives."""
    prior_gt: Tensor
    """ε_T(z_t, t, c) in the same space, without gradient: compared with `prior`."""


def through_identity(prediction: Tensor, noisy: Tensor) -> Tensor:
    """Give a teacher's prediction the identity as its Jacobian: same value, ∂ε_T/∂z_t := I.

    Score distillation drops the network's Jacobian, as it is costly and noisy (DreamFusion, Sec. 3; TSD-SR). With this
    in place of ε_T, Eq. 2 keeps its value while its gradient with respect to z_t becomes 2 (difference) / N, provided
    that what it is compared with does not follow z_t: see `losses.score_distillation.align`.

    Args:
        prediction: ε_T, computed without gradient.
        noisy: z_t, through which the gradient goes.
    """
    return prediction.detach() + (noisy - noisy.detach())


def latent_space_targets(
    predict_noise: Callable[[Noisy], Tensor], student: Noisy, gt: Noisy, gradient: Gradient
) -> TeacherTargets:
    """Targets of a teacher in the student's own latent space: one prediction serves both terms.

    Args:
        predict_noise: ε_T of a noised latent.
        student: z_t^s, from the student's restoration.
        gt: z_t, from the ground truth.
        gradient: Whether gradients flow through `predict_noise`.
    """
    with torch.no_grad():
        at_gt = predict_noise(gt)
    if gradient == "paper":
        at_student = predict_noise(student)
    else:
        with torch.no_grad():
            at_student = predict_noise(student)
        at_student = through_identity(at_student, student.latent)
    return TeacherTargets(at_student, at_student, at_gt)


class Teacher(nn.Module, ABC):
    """A frozen restoration expert.

    A teacher owns its networks through `Frozen`: it has no parameters and enters no checkpoint.
    """

    scale: int
    """Enlargement that the teacher was made for."""
    seed: int = 0
    """Seed of what the teacher draws when it restores, if it draws anything."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor | None:  # noqa: ARG002  # to override
        """Condition c of the predictions, from the low-quality images, without gradient; None by default.

        Apart from `targets`, so that one result serves several noise levels.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        return None

    @abstractmethod
    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],
    ) -> TeacherTargets:
        """Noise predictions for what the student made of a batch, and for its ground truth (Eq. 2 and 3).

        Args:
            student: The student's noised latent; gradients flow to its `latent`, `clean` and `image`.
            gt: The ground truth's latent with the same ε and t.
            condition: The result of `condition` for the same batch.
            gradient: `paper` lets gradients flow through the teacher's networks, `score` takes the identity for their
                Jacobian.
            normal: Draws N(0, I) in the shape of its argument, for teachers with a latent space of their own.
        """

    def align_weight(self, alpha_bar: Tensor) -> Tensor | None:  # noqa: ARG002  # to override
        """Weight of each image's ‖ε_T - ε_S‖², shape (B, 1, 1, 1); None for 1, the default.

        Args:
            alpha_bar: ᾱ_t, shape (B, 1, 1, 1).
        """
        return None

    def snr_mismatch(self, alpha_bar: Tensor) -> Tensor | None:  # noqa: ARG002  # to override
        """SNR_t / SNR_τ, shape (B, 1, 1, 1), for teachers whose own noise levels τ stand for t; None by default.

        Args:
            alpha_bar: ᾱ_t, shape (B, 1, 1, 1).
        """
        return None

    @abstractmethod
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Restore images: x_1 of stage 2. The same input gives the same output, whatever batch it comes in.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w).
        """
