"""Velocity matching of stage 2."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def interpolate(z_0: Tensor, z_1: Tensor, control: Tensor) -> Tensor:
    """The straight path z_t = (1 - t) z_0 + t z_1.

    Args:
        z_0: Start, shape (B, C, h, w).
        z_1: End.
        control: t, shape (B,).
    """
    t = control.view(-1, 1, 1, 1)
    return (1.0 - t) * z_0 + t * z_1


def velocity_matching(velocity: Tensor, z_0: Tensor, z_1: Tensor) -> Tensor:
    """‖(z_1 - z_0) - v(z_t, t, c)‖² of Eq. 5, a mean over elements.

    Args:
        velocity: v at z_t, shape (B, C, h, w).
        z_0: Start of the path.
        z_1: End of the path.
    """
    return F.mse_loss(velocity, z_1 - z_0)
