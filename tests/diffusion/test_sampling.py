"""ResShift's chain."""

import hashlib

import numpy as np
import pytest
import torch

from ctsr_lightning.diffusion import ResShiftSchedule
from ctsr_lightning.diffusion.sampling import noise_by_content, sample_resshift


def seeded(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator).to(like)


def images(count=3, side=5):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def contract(shifted, step):
    """A denoiser that answers for every image by itself."""
    return 0.5 * shifted + 0.1 * step.view(-1, 1, 1, 1).to(shifted)


@pytest.mark.parametrize("steps", [2, 4, 15])
def test_perfect_denoiser_gives_the_clean_latent(steps):
    clean, degraded = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64).unbind()
    found = sample_resshift(lambda *_: clean, degraded, ResShiftSchedule(num_steps=steps), seeded())
    assert torch.equal(found, clean)


def test_chain_is_ancestral_sampling():
    schedule, degraded = ResShiftSchedule(), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    found = sample_resshift(contract, degraded, schedule, seeded(7))
    normal, eta, y = seeded(7), schedule.etas.numpy(), degraded.numpy()
    noise = [normal(degraded).numpy() for _ in range(4)]
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

    sample_resshift(denoise, torch.zeros(2, 1, 2, 2), ResShiftSchedule(), seeded())
    assert asked == [[3, 3], [2, 2], [1, 1], [0, 0]]


@pytest.mark.parametrize(("steps", "asked"), [(1, [3]), (2, [3, 2]), (4, [3, 2, 1, 0]), (None, [3, 2, 1, 0])])
def test_fewer_steps_are_the_first_ones_of_the_walk(steps, asked):
    degraded, guesses = torch.randn(1, 2, 3, 3), []

    def denoise(shifted, step):
        guesses.append((step.item(), contract(shifted, step)))
        return guesses[-1][1]

    whole = sample_resshift(denoise, degraded, ResShiftSchedule(), seeded(7))
    all_guesses, guesses = guesses, []
    found = sample_resshift(denoise, degraded, ResShiftSchedule(), seeded(7), steps=steps)
    assert [step for step, _ in guesses] == asked
    assert torch.equal(found, all_guesses[len(asked) - 1][1])
    assert torch.equal(found, whole) is (len(asked) == 4)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_one_step_starts_at_the_degraded_latent_and_scaled_noise(temperature):
    schedule, degraded, shown = ResShiftSchedule(), torch.randn(1, 2, 3, 3, dtype=torch.float64), []
    sample_resshift(
        lambda shifted, step: (shown.append(shifted), shifted)[1], degraded, schedule, seeded(7), temperature, steps=1
    )
    expected = degraded + temperature * 2.0 * 0.99 * seeded(7)(degraded)
    torch.testing.assert_close(shown[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [[2], [2, 0], [1, 2, 0], [2, 2]])
def test_result_depends_neither_on_the_batch_nor_on_the_place_in_it(order):
    lq, degraded = images(), torch.randn(3, 4, 5, 5)

    def walk(chosen):
        normal = noise_by_content(lq[chosen], 0)
        return sample_resshift(contract, degraded[chosen], ResShiftSchedule(), normal)

    assert torch.equal(walk(order)[order.index(2)], walk([0, 1, 2])[2])


def test_images_of_a_batch_get_independent_noise():
    first, second = noise_by_content(images(2), 0)(torch.zeros(2, 4, 64, 64))
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.03
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1.0) < 0.03


def test_every_step_draws_anew():
    normal = noise_by_content(images(1), 0)
    assert not torch.equal(normal(torch.zeros(1, 4, 5, 5)), normal(torch.zeros(1, 4, 5, 5)))


def test_seed_and_content_decide_the_noise():
    lq, like = images(1), torch.zeros(1, 4, 5, 5)
    draw = noise_by_content(lq, 1)(like)
    assert torch.equal(noise_by_content(lq.double(), 1)(like), draw)
    other = lq.clone()
    other[0, 0, 0, 0] = 1.0 - other[0, 0, 0, 0]
    for normal in (noise_by_content(lq, 2), noise_by_content(other, 1), noise_by_content(lq.flip(-1), 1)):
        assert not torch.allclose(normal(like), draw)


def test_noise_is_the_same_on_every_machine():
    key = "ca12fabeb30d073b994f139fc8197a69"  # of the image of this ramp, see the tests of answers on disk
    seed = int.from_bytes(hashlib.blake2b(f"7/{key}".encode(), digest_size=8).digest(), "big") // 2
    found = noise_by_content(torch.arange(48).view(1, 3, 4, 4) / 255.0, 7)(torch.zeros(1, 2, 3, 3))
    assert torch.equal(found[0], torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed)))


def test_seeded_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    noise_by_content(images(), 0)(torch.zeros(3, 4, 5, 5))
    assert torch.equal(state, torch.get_rng_state())


def test_unseeded_noise_is_fresh():
    normal, like = noise_by_content(images(2), None), torch.zeros(2, 4, 5, 5)
    first, again = normal(like), normal(like)
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, again)


def test_seeded_noise_has_the_type_of_the_latent():
    noise = noise_by_content(images(1), 0)(torch.zeros(1, 4, 5, 5, dtype=torch.bfloat16))
    assert noise.dtype == torch.bfloat16
