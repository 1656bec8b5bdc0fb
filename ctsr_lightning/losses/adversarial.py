"""Adversarial losses of a generator and a discriminator, and their weight against a reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from ctsr_lightning.diffusion.parametrization import at_least_float32

FLOOR = 1e-4
"""Added to the norm that `adaptive_weight` divides by (VQGAN)."""
LARGEST = 1e4
"""Largest adaptive weight (VQGAN)."""


def hinge_real(logits: Tensor) -> Tensor:
    """Mean of relu(1 - D(x)) over ground truth's logits."""
    return F.relu(1.0 - at_least_float32(logits)).mean()


def hinge_fake(logits: Tensor) -> Tensor:
    """Mean of relu(1 + D(x̂)) over restored images' logits."""
    return F.relu(1.0 + at_least_float32(logits)).mean()


def generator(logits: Tensor) -> Tensor:
    """Mean of -D(x̂), which the generator minimises."""
    return -at_least_float32(logits).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Factor that makes an adversarial term pull as hard on the last layer as the reconstruction.

    ‖∇ L_rec‖ / (‖∇ L_G‖ + 1e-4), at most 1e4 and without gradient (Esser et al. 2021, "Taming Transformers for
    High-Resolution Image Synthesis", Eq. 7; CCSR's code). The gradients are means over all processes, each of which
    has to call it.

    Args:
        reconstruction: L_rec, a scalar; its graph is kept.
        adversarial: L_G, a scalar; its graph is kept.
        last: Weight of the decoder's last layer.
    """
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    pair = torch.stack(gradients)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(pair)
        pair = pair / distributed.get_world_size()
    rec, adv = pair.flatten(1).norm(dim=1)
    return (rec / (adv + FLOOR)).clamp(max=LARGEST).detach()
