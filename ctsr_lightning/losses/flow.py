"""Losses of velocities: matching along a straight path, and the distillation of a flow into one step.

In a distillation t and s = t + h are flow times, v_t, v_s and v_0 the student's mean velocities from 0 to these and to
0, and the teacher is evaluated at the student's own state X_t = x_0 + t v_t.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.diffusion.flow import expand

Norm = Literal["l1", "l2"]
"""Mean absolute error, or mean squared error."""


def error(found: Tensor, target: Tensor, norm: Norm) -> Tensor:
    """Mean over elements of absolute or squared differences."""
    return F.l1_loss(found, target) if norm == "l1" else F.mse_loss(found, target)


def velocity_matching(velocity: Tensor, x_0: Tensor, x_1: Tensor, norm: Norm = "l2") -> Tensor:
    """Error of v(x_τ, τ, c) against x_1 - x_0 (CTSR, Eq. 5; OFTSR, Sec. 3.1).

    Args:
        velocity: v at x_τ, shape (B, C, h, w).
        x_0: Start of the path.
        x_1: End of the path.
        norm: The error.
    """
    return error(velocity, x_1 - x_0, norm)


def distillation(v_s: Tensor, v_t: Tensor, teacher: Tensor, time: Tensor, later: Tensor, norm: Norm = "l2") -> Tensor:
    """Error of v_s against v_t + (h/s) (v̄ - v_t), which has no gradient (OFTSR, Eq. 9).

    It vanishes where X_s = X_t + h v̄ for all t: where the student's states are the teacher's solution.

    Args:
        v_s: Mean velocity up to s, shape (B, C, h, w).
        v_t: Mean velocity up to t.
        teacher: v̄, the teacher's mean velocity from t to s, one step of a solver from X_t.
        time: t, shape (B,).
        later: s > t, shape (B,).
        norm: The error.
    """
    share = expand((later - time) / later, v_s)
    return error(v_s, (v_t + share * (teacher - v_t)).detach(), norm)


def alignment(v_t: Tensor, teacher: Tensor, time: Tensor, norm: Norm = "l2") -> Tensor:
    """Error of (1 - t) v_t against (1 - t) v_T(X_t, t), which has no gradient (OFTSR, Eq. 10).

    That is the student's image x_0 + v_t against the teacher's estimate X_t + (1 - t) v_T of x_1.

    Args:
        v_t: Mean velocity up to t, shape (B, C, h, w).
        teacher: v_T(X_t, t).
        time: t, shape (B,).
        norm: The error.
    """
    weight = 1.0 - expand(time, v_t)
    return error(weight * v_t, (weight * teacher).detach(), norm)


def boundary(v_0: Tensor, teacher: Tensor, norm: Norm = "l2") -> Tensor:
    """Error of v_0 against v_T(x_0, 0), which has no gradient (OFTSR, Eq. 11).

    Args:
        v_0: Mean velocity at t = 0, shape (B, C, h, w).
        teacher: v_T(x_0, 0).
        norm: The error.
    """
    return error(v_0, teacher.detach(), norm)
