"""Adversarial losses and their adaptive weight in closed form, in float64."""

import numpy as np
import pytest
import torch

from ctsr_lightning.losses import adversarial


def test_hinges_and_generator_in_closed_form():
    real, fake = (torch.tensor([values], dtype=torch.float64) for values in ([2.0, 0.0, -1.0], [-2.0, 0.0, 1.0]))
    assert adversarial.hinge_real(real).item() == 1.0  # (0 + 1 + 2) / 3
    assert adversarial.hinge_fake(fake).item() == 1.0  # (0 + 1 + 2) / 3
    assert adversarial.generator(real).item() == pytest.approx(-1 / 3)


def test_half_precision_logits_are_averaged_in_float32():
    logits = torch.full((1, 3), 1.0, dtype=torch.bfloat16)
    assert adversarial.hinge_fake(logits).dtype == torch.float32


def linear():
    """A linear decoder y = W x, a reconstruction ‖y - 1‖² / n and an adversarial term Σ a y."""
    generator = torch.Generator().manual_seed(0)
    weight, x, slope = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    weight.requires_grad_()
    y = weight @ x
    return weight, x, slope, y


@pytest.mark.parametrize("factor", [1.0, 1e-3, 40.0])
def test_the_adaptive_weight_is_the_ratio_of_gradients(factor):
    weight, x, slope, y = linear()
    found = adversarial.adaptive_weight((y - 1.0).square().mean(), factor * (slope * y).sum(), weight)
    w, inputs, a = (tensor.detach().numpy() for tensor in (weight, x, slope))
    rec = 2.0 * (w @ inputs - 1.0) @ inputs.T / 9
    assert found.item() == pytest.approx(
        np.linalg.norm(rec) / (factor * np.linalg.norm(a @ inputs.T) + 1e-4), rel=1e-12
    )
    assert not found.requires_grad
    (y - 1.0).square().mean().backward()  # the graph is kept


def test_the_adaptive_weight_is_bounded():
    weight, _, slope, y = linear()
    zero = adversarial.adaptive_weight(y.square().sum() * 1e-3, 0.0 * (slope * y).sum(), weight)
    (gradient,) = torch.autograd.grad(y.square().sum() * 1e-3, weight, retain_graph=True)
    assert zero.item() == pytest.approx(gradient.norm().item() / 1e-4, rel=1e-12)
    assert adversarial.adaptive_weight(y.square().sum() * 1e6, 0.0 * (slope * y).sum(), weight).item() == 1e4


def test_adaptive_terms_pull_equally_on_the_last_layer():
    weight, _, slope, y = linear()
    rec, adv = (y - 1.0).square().mean(), (slope * y).sum()
    weighed = adversarial.adaptive_weight(rec, adv, weight) * adv
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm().item() for loss in (rec, weighed)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
