"""Distillation terms over noise predictions: CTSR's two and variational score distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def align(teacher: Tensor, student: Tensor, weight: Tensor | None = None) -> Tensor:
    """First term of Eq. 2 and 3: ‖ε_T(z_t^s, t, c) - ε_S(z_t^s, t, c)‖², a mean over elements.

    To the letter both predictions follow z_t^s, so that ∂/∂z_t = 2 (J_T - J_S)ᵀ (ε_T - ε_S) / N. As score distillation,
    with sg for what gradients do not pass, it is ‖sg ε_T(z_t^s) + (z_t^s - sg z_t^s) - ε_S(sg z_t^s)‖²: the same value,
    ∂/∂z_t = 2 (ε_T - ε_S) / N, the direction of variational score distillation with the student in the critic's place,
    and ε_S itself is still pulled to ε_T. The identity for J_T alone is not enough: the Jacobian J_S of a good denoiser
    is about as large, and the difference turns the direction around.

    Args:
        teacher: ε_T at the student's noised latent.
        student: ε_S at the same latent; for score distillation at one that carries no gradient.
        weight: Weight of each image's squared difference, shape (B, 1, 1, 1); None for 1.
    """
    if weight is None:
        return F.mse_loss(teacher, student)
    return (weight * (teacher - student).square()).mean()


def prior(teacher_at_student: Tensor, teacher_at_gt: Tensor) -> Tensor:
    """Second term of Eq. 2 and 3, without γ_time: ‖ε_T(z_t^s, t, c) - ε_T(z_t, t, c)‖², a mean over elements.

    Args:
        teacher_at_student: ε_T at the student's noised latent.
        teacher_at_gt: ε_T at the ground truth's latent with the same ε and t.
    """
    return F.mse_loss(teacher_at_student, teacher_at_gt)


def variational_score_distillation(clean: Tensor, prior_clean: Tensor, critic_clean: Tensor) -> Tensor:
    """VSD on clean predictions (OSEDiff, Eq. 8): descending it moves ẑ by (ẑ_prior - ẑ_critic) / w.

    w is the mean over an image of |ẑ - ẑ_prior|. The value is ‖ẑ - sg(ẑ - g)‖² with g = (ẑ_critic - ẑ_prior) / w.

    Args:
        clean: ẑ, the student's latent, shape (B, C, h, w).
        prior_clean: The frozen prior's estimate of the clean latent from the noised ẑ.
        critic_clean: The same estimate by the critic, which follows the student's distribution.
    """
    with torch.no_grad():
        weight = (clean - prior_clean).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8)
        target = clean - (critic_clean - prior_clean) / weight
    return F.mse_loss(clean, target)
