"""The three parametrizations say the same thing."""

import pytest
import torch

from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.parametrization import (
    clean_from_noise,
    noise_from_clean,
    to_clean,
    to_noise,
    training_target,
)

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
EIGHT_BIT_TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def noised():
    """Clean latent, noise, ᾱ and noisy latent at four timesteps, in float64."""
    clean, noise = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64).unbind()
    timestep = torch.tensor([0, 20, 500, 999])
    schedule = NoiseSchedule()
    return clean, noise, schedule.alpha_bar(timestep, clean), schedule.add_noise(clean, noise, timestep)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_leads_back_to_latent_and_noise(noised, prediction):
    clean, noise, alpha_bar, noisy = noised
    output = training_target(clean, noise, alpha_bar, prediction)
    torch.testing.assert_close(to_clean(output, noisy, alpha_bar, prediction), clean, **EIGHT_BIT_TOLERANCE)
    torch.testing.assert_close(to_noise(output, noisy, alpha_bar, prediction), noise, **EIGHT_BIT_TOLERANCE)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_any_answer_implies_noise_and_latent_that_make_the_input(noised, prediction):
    _, _, alpha_bar, noisy = noised
    output = torch.randn_like(noisy)
    clean, noise = (f(output, noisy, alpha_bar, prediction) for f in (to_clean, to_noise))
    torch.testing.assert_close(alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise, noisy, **EIGHT_BIT_TOLERANCE)


def test_velocity_is_the_definition_of_progressive_distillation(noised):
    clean, noise, alpha_bar, _ = noised
    expected = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    torch.testing.assert_close(
        training_target(clean, noise, alpha_bar, "v_prediction"), expected, **EIGHT_BIT_TOLERANCE
    )


def test_one_step_at_999_is_the_published_closed_form():
    start, noise = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64).unbind()
    alpha_bar = NoiseSchedule().alpha_bar(torch.tensor([999]), start)
    found = clean_from_noise(start, noise, alpha_bar)
    torch.testing.assert_close(found, 14.649 * start - 14.615 * noise, rtol=0, atol=5e-3)
    assert alpha_bar.rsqrt().item() == pytest.approx(14.649, abs=5e-4)
    assert ((1 - alpha_bar) / alpha_bar).sqrt().item() == pytest.approx(14.615, abs=5e-4)


@pytest.mark.parametrize("form", [clean_from_noise, noise_from_clean])
def test_half_precision_inputs_are_computed_in_float32(form):
    noisy, other = torch.randn(2, 1, 4, 8, 8).bfloat16().unbind()
    alpha_bar = NoiseSchedule().alpha_bar(torch.tensor([999]), noisy)
    found = form(noisy, other, alpha_bar)
    assert found.dtype == torch.float32
    # bfloat16 keeps 8 bits: computed in it, the answer would be off by 14.6 * 2^-9 and more.
    exact = form(noisy.double(), other.double(), alpha_bar.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_half_precision_answers_become_float32(prediction):
    output, noisy = torch.randn(2, 1, 4, 8, 8).bfloat16().unbind()
    alpha_bar = NoiseSchedule().alpha_bar(torch.tensor([999]), noisy)
    assert to_clean(output, noisy, alpha_bar, prediction).dtype == torch.float32
    assert to_noise(output, noisy, alpha_bar, prediction).dtype == torch.float32
