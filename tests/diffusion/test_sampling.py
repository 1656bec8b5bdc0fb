"""ResShift's chain."""

import numpy as np
import pytest
import torch

from ctsr_lightning.diffusion import ResidualShiftSchedule
from ctsr_lightning.diffusion.sampling import sample_residual_shift, shared_noise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def contract(shifted, step):
    """A denoiser that answers for every image by itself."""
    return 0.5 * shifted + 0.1 * step.view(-1, 1, 1, 1).to(shifted)


@pytest.mark.parametrize("steps", [2, 4, 15])
def test_perfect_denoiser_gives_the_clean_latent(steps):
    clean, degraded = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64).unbind()
    found = sample_residual_shift(lambda *_: clean, degraded, ResidualShiftSchedule(num_steps=steps), seeded())
    assert torch.equal(found, clean)


def test_chain_is_ancestral_sampling():
    schedule, degraded = ResidualShiftSchedule(), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    found = sample_residual_shift(contract, degraded, schedule, seeded(7))
    draws, eta, y = seeded(7), schedule.etas.numpy(), degraded.numpy()
    noise = [torch.randn(1, 2, 3, 3, generator=draws).double().numpy() for _ in range(4)]
    w = y + 2.0 * np.sqrt(eta[3]) * noise[0]
    for tau in (3, 2, 1):
        guess = 0.5 * w + 0.1 * tau
        alpha = eta[tau] - eta[tau - 1]
        w = eta[tau - 1] / eta[tau] * w + alpha / eta[tau] * guess
        w = w + 2.0 * np.sqrt(eta[tau - 1] * alpha / eta[tau]) * noise[4 - tau]
    np.testing.assert_allclose(found.numpy(), 0.5 * w, rtol=1e-12)


def test_denoiser_is_asked_once_per_step_from_the_last_to_the_first():
    asked = []

    def denoise(shifted, step):
        asked.append(step.tolist())
        return shifted

    sample_residual_shift(denoise, torch.zeros(2, 1, 2, 2), ResidualShiftSchedule(), seeded())
    assert asked == [[3, 3], [2, 2], [1, 1], [0, 0]]


def test_result_does_not_depend_on_the_batch():
    degraded = torch.randn(3, 4, 5, 5)
    together = sample_residual_shift(contract, degraded, ResidualShiftSchedule(), seeded())
    alone = sample_residual_shift(contract, degraded[2:], ResidualShiftSchedule(), seeded())
    assert torch.equal(together[2:], alone)


def test_seed_decides_the_result():
    degraded = torch.randn(1, 4, 5, 5)
    first, again, other = (
        sample_residual_shift(contract, degraded, ResidualShiftSchedule(), seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_seeded_noise_is_shared_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    noise = shared_noise(torch.zeros(3, 4, 5, 5), seeded())
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(state, torch.get_rng_state())


def test_unseeded_noise_differs_from_image_to_image():
    noise = shared_noise(torch.zeros(2, 4, 5, 5), None)
    assert not torch.allclose(noise[0], noise[1])


def test_seeded_noise_has_the_type_of_the_latent():
    assert shared_noise(torch.zeros(1, 4, 5, 5, dtype=torch.bfloat16), seeded()).dtype == torch.bfloat16
