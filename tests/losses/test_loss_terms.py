"""Every loss term against NumPy, in float64."""

import numpy as np
import pytest
import torch

from ctsr_lightning.losses import reconstruction, score_distillation
from ctsr_lightning.losses.velocity import interpolate, velocity_matching


@pytest.fixture
def latents():
    return torch.randn(3, 2, 4, 5, 5, dtype=torch.float64)


def mean_square(x):
    return float(np.mean(np.square(x)))


def test_l2_is_taken_between_minus_one_and_one():
    restored, gt = torch.rand(2, 2, 3, 4, 4, dtype=torch.float64)
    expected = mean_square((2 * restored - 1).numpy() - (2 * gt - 1).numpy())
    assert reconstruction.l2(restored, gt).item() == pytest.approx(expected, rel=1e-12)
    assert reconstruction.l2(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).item() == 4.0


@pytest.mark.parametrize("term", [score_distillation.align, score_distillation.prior])
def test_distillation_terms_are_mean_squares(latents, term):
    a, b, _ = latents
    assert term(a, b).item() == pytest.approx(mean_square(a.numpy() - b.numpy()), rel=1e-12)


def vsd_gradient(clean, prior, critic):
    weight = np.abs(clean - prior).mean(axis=(1, 2, 3), keepdims=True)
    return (critic - prior) / weight


def test_vsd_value_and_gradient_are_the_closed_forms(latents):
    clean, prior, critic = latents.clone()
    clean.requires_grad_()
    loss = score_distillation.variational_score_distillation(clean, prior, critic)
    loss.backward()
    expected = vsd_gradient(clean.detach().numpy(), prior.numpy(), critic.numpy())
    assert loss.item() == pytest.approx(mean_square(expected), rel=1e-12)
    np.testing.assert_allclose(clean.grad.numpy(), 2 * expected / expected.size, rtol=1e-10, atol=1e-15)


def test_vsd_moves_towards_the_prior_and_away_from_the_critic():
    clean = torch.zeros(1, 4, 3, 3, requires_grad=True)
    prior, critic = torch.full_like(clean, 1.0), torch.full_like(clean, -1.0)
    score_distillation.variational_score_distillation(clean, prior.detach(), critic.detach()).backward()
    assert (-clean.grad > 0).all()


def test_vsd_rests_where_prior_and_critic_agree(latents):
    clean, prior, _ = latents.clone()
    clean.requires_grad_()
    score_distillation.variational_score_distillation(clean, prior, prior).backward()
    assert clean.grad.abs().max() < 1e-15


def test_vsd_weighs_every_image_by_itself(latents):
    clean, prior, critic = latents.clone()
    whole = clean.clone().requires_grad_()
    score_distillation.variational_score_distillation(whole, prior, critic).backward()
    alone = clean[:1].clone().requires_grad_()
    score_distillation.variational_score_distillation(alone, prior[:1], critic[:1]).backward()
    torch.testing.assert_close(2 * whole.grad[:1], alone.grad, rtol=1e-10, atol=1e-15)


def test_vsd_survives_a_perfect_prior():
    clean = torch.ones(1, 4, 3, 3, requires_grad=True)
    loss = score_distillation.variational_score_distillation(clean, torch.ones_like(clean), torch.ones_like(clean))
    assert loss.isfinite()


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_path_is_straight(latents, t):
    z_0, z_1, _ = latents
    found = interpolate(z_0, z_1, torch.full((2,), t, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), (1 - t) * z_0.numpy() + t * z_1.numpy(), rtol=1e-12, atol=1e-15)


def test_every_image_has_its_own_place_on_the_path(latents):
    z_0, z_1, _ = latents
    found = interpolate(z_0, z_1, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.equal(found[0], z_0[0])
    assert torch.equal(found[1], z_1[1])


def test_velocity_target_points_from_start_to_end(latents):
    z_0, z_1, velocity = latents
    expected = mean_square(z_1.numpy() - z_0.numpy() - velocity.numpy())
    assert velocity_matching(velocity, z_0, z_1).item() == pytest.approx(expected, rel=1e-12)
    assert velocity_matching(z_1 - z_0, z_0, z_1).item() == 0.0
