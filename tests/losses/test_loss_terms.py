"""Every loss term against NumPy, in float64."""

import numpy as np
import pytest
import torch

from ctsr_lightning.losses import reconstruction, score_distillation
from ctsr_lightning.losses.flow import velocity_matching


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


def shares(image, factor):
    """Mean step at every place of a patch along x, over their mean; by loops over places."""
    steps = np.abs(np.diff(image, axis=-1))
    steps = steps[..., : steps.shape[-1] // factor * factor]
    places = np.array([[steps[..., y::factor, x::factor].mean() for x in range(factor)] for y in range(factor)]) + 1e-4
    return np.log(places / places.mean())


@pytest.mark.parametrize("factor", [2, 4])
def test_grid_compares_the_steps_at_every_place_of_a_patch(factor):
    restored, gt = torch.rand(2, 2, 3, 16, 24, dtype=torch.float64)
    x, y = restored.numpy(), gt.numpy()
    across = np.square(shares(x, factor) - shares(y, factor)).mean()
    down = np.square(shares(x.swapaxes(-1, -2), factor) - shares(y.swapaxes(-1, -2), factor)).mean()
    assert reconstruction.grid(restored, gt, factor).item() == pytest.approx((across + down) / 2, rel=1e-10)


def excess(image, period):
    """log of the power at every harmonic over the median around; by loops over frequencies."""
    luma = np.tensordot([65.481, 128.553, 24.966], image, axes=1) / 255
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(luma.shape[-1]) / luma.shape[-1])
    power = np.abs(np.fft.fft2(luma * hann * hann[:, None])) ** 2 / (hann**2).sum() ** 2
    side, found = len(power), []
    for i in range(period):
        for j in range(period):
            if i or j:
                y, x = i * side // period, j * side // period
                ring = [
                    power[(y + a) % side, (x + b) % side]
                    for a in range(-5, 6) for b in range(-5, 6) if max(abs(a), abs(b)) > 2
                ]  # fmt: skip
                rounding = 1 / 12 / 255**2
                found.append(np.log((power[y, x] + rounding) / (np.median(ring) + rounding)))
    return np.array(found)


def test_lattice_compares_harmonics_with_what_lies_around(photo):
    x, y = photo[:2], photo[2:].clone()
    x = x + 0.05 * torch.cos(torch.arange(64) * np.pi / 2)  # period 4
    pairs = zip(x.numpy(), y.numpy(), strict=True)
    errors = [np.maximum(excess(a, 4) - np.maximum(excess(b, 4), 0), 0) for a, b in pairs]
    expected = np.mean(np.square(errors))
    assert expected > 0.3
    assert reconstruction.lattice(x, y, 4).item() == pytest.approx(expected, rel=1e-6)
    wider = [torch.cat([image, torch.rand(2, 3, 64, 3, dtype=torch.float64)], dim=-1) for image in (x, y)]
    assert reconstruction.lattice(*wider, 4).item() == pytest.approx(expected, rel=1e-6)  # a square of whole periods


def test_lattice_is_nothing_for_the_ground_truth_and_takes_paint_away(photo):
    assert reconstruction.lattice(photo, photo, 8).item() == 0.0
    paint = torch.zeros_like(photo)
    paint[..., ::4, ::4] = 0.2
    shown = (photo + paint).requires_grad_()
    reconstruction.lattice(shown, photo, 8).backward()
    assert (shown.grad * paint).sum() > 0  # a step downhill makes it fainter
    assert reconstruction.lattice(photo + paint, photo, 8) > 4 * reconstruction.lattice(photo + 0.3 * paint, photo, 8)


def test_lattice_needs_several_periods():
    image = torch.rand(1, 3, 64, 31)
    with pytest.raises(ValueError, match="at least 32 pixels a side"):
        reconstruction.lattice(image, image, 4)


@pytest.fixture
def photo():
    return torch.rand(4, 3, 64, 64, dtype=torch.float64)


def test_grid_does_not_see_strength_but_patches(photo):
    assert reconstruction.grid(photo, photo, 4).item() == 0.0
    assert reconstruction.grid(0.5 * photo, photo, 4).item() < 1e-9  # the floor is all that is left
    for painted in ((..., slice(None, None, 4)), (..., slice(1, None, 4)), (..., slice(2, None, 4), slice(3, None, 4))):
        image = photo.clone()
        image[painted] += 0.3
        assert reconstruction.grid(image, photo, 4).item() > 1e-3


def test_grid_pulls_painted_patches_away(photo):
    image = photo.clone()
    image[..., 3::4] += 0.3
    image.requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.01)
    first = reconstruction.grid(image, photo, 4).item()
    for _ in range(20):
        optimizer.zero_grad()
        reconstruction.grid(image, photo, 4).backward()
        optimizer.step()
    assert reconstruction.grid(image, photo, 4).item() < 0.1 * first


def test_grid_of_flat_images_is_finite():
    flat = torch.zeros(1, 3, 8, 8, requires_grad=True)
    reconstruction.grid(flat, torch.rand(1, 3, 8, 8), 4).backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("size", [(4, 8), (8, 10)])
def test_grid_wants_whole_patches(size):
    image = torch.rand(1, 3, *size)
    with pytest.raises(ValueError, match="several whole patches"):
        reconstruction.grid(image, image, 4)


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


def test_velocity_target_points_from_start_to_end(latents):
    z_0, z_1, velocity = latents
    expected = mean_square(z_1.numpy() - z_0.numpy() - velocity.numpy())
    assert velocity_matching(velocity, z_0, z_1).item() == pytest.approx(expected, rel=1e-12)
    assert velocity_matching(z_1 - z_0, z_0, z_1).item() == 0.0
