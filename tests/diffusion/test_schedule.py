"""Noise schedules against closed forms and published tables."""

import json

import numpy as np
import pytest
import torch

from ctsr_lightning.diffusion import NoiseSchedule, ResShiftSchedule
from helpers.reference import SHARED

PARITY = SHARED / "reference" / "parity" / "resshift_schedules.json"

V3 = {"num_steps": 4, "min_noise_level": 0.2}
V1 = {"num_steps": 15, "min_noise_level": 0.04}
V3_SQRT_ETAS = [0.1, 0.5201, 0.76138, 0.99]
V1_SQRT_ETAS = [
    0.02, 0.11717, 0.1763, 0.23363, 0.29157, 0.35101, 0.41236, 0.47586, 0.54167, 0.60991, 0.68066, 0.75399, 0.82995,
    0.90861, 0.99,
]  # fmt: skip


def test_stable_diffusion_ends_at_its_published_alpha_bar():
    assert NoiseSchedule().alpha_bars[999].item() == pytest.approx(0.0046601, abs=5e-8)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear"])
def test_alpha_bar_is_the_product_of_one_minus_beta(kind):
    if kind == "linear":
        betas = np.linspace(0.00085, 0.012, 1000)
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(NoiseSchedule(kind=kind).alpha_bars.numpy(), np.cumprod(1 - betas), rtol=1e-12)


@pytest.mark.parametrize(
    ("latent", "answer"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_alpha_bar_answers_in_float32_or_better(latent, answer):
    found = NoiseSchedule().alpha_bar(torch.tensor([0, 999]), torch.zeros(2, 4, 3, 3, dtype=latent))
    assert found.dtype == answer
    assert found.shape == (2, 1, 1, 1)


def test_forward_process_mixes_by_the_roots():
    schedule = NoiseSchedule()
    clean, noise = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    noisy = schedule.add_noise(clean, noise, torch.tensor([7, 640]))
    for k, t in enumerate((7, 640)):
        a = schedule.alpha_bars[t].item()
        np.testing.assert_allclose(noisy[k], a**0.5 * clean[k].numpy() + (1 - a) ** 0.5 * noise[k].numpy(), rtol=1e-12)


@pytest.mark.parametrize("betas", [(0.0, 0.1), (0.2, 0.1), (0.1, 1.0)])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="0 < beta_start <= beta_end < 1"):
        NoiseSchedule(beta_start=betas[0], beta_end=betas[1])


@pytest.mark.parametrize(("options", "table"), [(V3, V3_SQRT_ETAS), (V1, V1_SQRT_ETAS)])
def test_shift_follows_the_published_table(options, table):
    np.testing.assert_allclose(ResShiftSchedule(**options).sqrt_etas.numpy(), table, atol=6e-6)


@pytest.mark.reference
@pytest.mark.parametrize(("options", "name"), [(V3, "v3_4_steps"), (V1, "v1_15_steps")])
def test_shift_equals_the_reference_schedule(options, name):
    reference = json.loads(PARITY.read_text())[name]
    np.testing.assert_allclose(ResShiftSchedule(**options).sqrt_etas.numpy(), reference["sqrt_etas"], rtol=1e-12)


def test_shift_moves_towards_the_degraded_latent():
    schedule = ResShiftSchedule()
    clean, degraded, noise = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64).unbind()
    shifted = schedule.add_noise(clean, degraded, noise, torch.tensor([0, 3]))
    for k, root in enumerate((0.1, 0.99)):
        expected = (1 - root**2) * clean[k] + root**2 * degraded[k] + 2.0 * root * noise[k]
        torch.testing.assert_close(shifted[k], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_posterior_is_bayes_rule(step):
    # q(w_{τ-1} | w_0) = N(w_0 + η'(y - w_0), κ²η'), q(w_τ | w_{τ-1}) = N(w_{τ-1} + (η - η')(y - w_0), κ²(η - η')).
    schedule = ResShiftSchedule()
    clean, degraded, shifted = torch.randn(3, 1, 2, 3, 3, dtype=torch.float64).unbind()
    eta, previous, kappa = schedule.etas[step].item(), schedule.etas[step - 1].item(), schedule.kappa
    prior_mean, prior_variance = clean + previous * (degraded - clean), kappa**2 * previous
    seen, seen_variance = shifted - (eta - previous) * (degraded - clean), kappa**2 * (eta - previous)
    precision = 1 / prior_variance + 1 / seen_variance
    mean, sigma = schedule.posterior(shifted, clean, torch.tensor([step]))
    torch.testing.assert_close(
        mean, (prior_mean / prior_variance + seen / seen_variance) / precision, rtol=1e-11, atol=1e-11
    )
    assert sigma.item() == pytest.approx(precision**-0.5, rel=1e-11)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_scaled_input_has_unit_variance_where_nothing_is_shifted(step):
    schedule = ResShiftSchedule()
    clean = torch.randn(1, 1, 300, 300, dtype=torch.float64)
    shifted = schedule.add_noise(clean, clean, torch.randn_like(clean), torch.tensor([step]))
    assert schedule.scale_input(shifted, torch.tensor([step])).var().item() == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("options", "timesteps"),
    [(V3, [41, 462, 720, 999]), (V1, [1, 55, 109, 167, 227, 289, 352, 417, 484, 554, 629, 712, 809, 941, 999])],
)
def test_each_step_has_the_snr_of_its_published_timestep(options, timesteps):
    alpha_bars = NoiseSchedule().alpha_bars
    log_snr = (alpha_bars / (1 - alpha_bars)).log()
    nearest = (log_snr[None] - ResShiftSchedule(**options).snr.log()[:, None]).abs().argmin(dim=1)
    assert nearest.tolist() == timesteps


@pytest.mark.parametrize("options", [V3, V1])
def test_pairing_finds_the_nearest_log_snr(options):
    schedule, alpha_bars = ResShiftSchedule(**options), NoiseSchedule().alpha_bars
    target, table = np.log((alpha_bars / (1 - alpha_bars)).numpy()), np.log(schedule.snr.numpy())
    expected = np.abs(target[:, None] - table[None]).argmin(axis=1)
    assert schedule.paired_step(alpha_bars.float().view(-1, 1, 1, 1)).tolist() == expected.tolist()


def test_last_step_is_noisier_than_stable_diffusion_ever_is():
    # Its SNR of 1e-4 lies beyond the 4.7e-3 of t = 999, whose nearest step is therefore the one before.
    paired = ResShiftSchedule(**V3).paired_step(NoiseSchedule().alpha_bars)
    assert paired[[41, 462, 720, 999]].tolist() == [0, 1, 2, 2]
    assert 3 not in paired


@pytest.mark.parametrize("options", [{"num_steps": 1}, {"eta_end": 1.0}, {"min_noise_level": 4.0}])
def test_impossible_shifts_are_refused(options):
    with pytest.raises(ValueError, match="Expected"):
        ResShiftSchedule(**options)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_linear_estimate_is_bayes_rule(step):
    """Precision-weighted mean of the prior N(w_y, σ²) and of what w_τ says of w_0, in float64."""
    schedule, std = ResShiftSchedule(), 0.3
    generator = torch.Generator().manual_seed(0)
    shifted, degraded = torch.randn(2, 1, 3, 2, 2, generator=generator, dtype=torch.float64)
    eta = schedule.etas[step].item()
    observed, variance = (shifted - eta * degraded) / (1 - eta), 4 * eta / (1 - eta) ** 2
    expected = (degraded / std**2 + observed / variance) / (1 / std**2 + 1 / variance)
    found = schedule.linear_estimate(shifted, degraded, torch.tensor([step]), std)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
