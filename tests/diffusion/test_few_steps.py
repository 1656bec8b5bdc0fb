"""A few steps at any timesteps: their lists, the posterior between two of them, and the chain."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from ctsr_lightning.diffusion import NoiseSchedule, structure_steps
from ctsr_lightning.diffusion.sampling import sample_few_steps

SCHEDULE = NoiseSchedule()
ABAR = SCHEDULE.alpha_bars.numpy()


@pytest.mark.parametrize(
    ("grid", "t_max", "t_min", "count"),
    [
        (6, 2 / 3, 1 / 2, 2),
        (12, 2 / 3, 1 / 2, 3),
        (18, 2 / 3, 1 / 2, 4),
        (6, 2 / 3, 1 / 3, 3),
        (6, 5 / 6, 1 / 2, 3),
        (6, 5 / 6, 2 / 3, 2),
        (6, 1 / 2, 1 / 6, 3),
        (45, 2 / 3, 1 / 3, 16),
        (6, 2 / 3, 2 / 3, 1),
    ],
)
@pytest.mark.parametrize("spacing", ["nominal", "leading"])
def test_numbers_of_steps_are_ccsr_s(grid, t_max, t_min, count, spacing):
    steps = structure_steps(grid, t_max, t_min, spacing)
    assert len(steps) == count  # the paper's Table III prints 2 for (1/2, 1/6)
    assert steps[0] == 999
    assert steps == sorted(set(steps), reverse=True)


def test_nominal_steps_are_shares_of_the_schedule():
    assert structure_steps(6) == [999, 667]
    assert structure_steps(12) == [999, 667, 583]
    assert structure_steps(18) == [999, 667, 611, 556]


@pytest.mark.parametrize(("grid", "inner"), [(6, [499]), (12, [582, 499]), (18, [606, 551, 496])])
def test_leading_steps_are_diffusers(grid, inner):
    scheduler = DDPMScheduler(timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(grid)
    sliced = scheduler.timesteps[-round(grid * 2 / 3) : -round(grid / 2)].tolist()
    assert structure_steps(grid, spacing="leading") == [999, *sliced] == [999, *inner]


@pytest.mark.parametrize("ends", [(0.6, 0.5), (2 / 3, 0.4), (1.0, 0.5), (0.5, 2 / 3), (0.5, -1 / 6)])
def test_ends_that_are_no_steps_are_refused(ends):
    with pytest.raises(ValueError, match="both steps of a grid of 6, found"):
        structure_steps(6, *ends)


@pytest.mark.parametrize(("t", "s"), [(999, 998), (667, 666), (667, 583), (611, 556), (999, 667), (200, 0)])
def test_posterior_is_bayes_rule(t, s):
    # q(z_s | z_0) = N(√ᾱ_s z_0, 1-ᾱ_s), q(z_t | z_s) = N(√a z_s, 1-a), a = ᾱ_t/ᾱ_s.
    clean, noisy = np.random.default_rng(0).normal(size=(2, 1, 2, 3, 3))
    a, prior = ABAR[t] / ABAR[s], 1 - ABAR[s]
    precision = 1 / prior + a / (1 - a)
    mean = (np.sqrt(ABAR[s]) * clean / prior + np.sqrt(a) * noisy / (1 - a)) / precision
    found, sigma = SCHEDULE.posterior(
        torch.from_numpy(noisy), torch.from_numpy(clean), torch.tensor([t]), torch.tensor([s])
    )
    np.testing.assert_allclose(found.numpy(), mean, rtol=1e-10, atol=1e-10)
    assert sigma.item() == pytest.approx(precision**-0.5, rel=1e-10)
    if t == s + 1:  # DDPM, Eq. 7
        beta = 1 - a
        ddpm = np.sqrt(ABAR[s]) * beta * clean + np.sqrt(a) * (1 - ABAR[s]) * noisy
        np.testing.assert_allclose(found.numpy(), ddpm / (1 - ABAR[t]), rtol=1e-9)
        assert sigma.item() ** 2 == pytest.approx((1 - ABAR[s]) / (1 - ABAR[t]) * beta, rel=1e-9)


def noises(*values):
    """The given noise, one value after the other."""
    left = iter(values)
    return lambda like: torch.full_like(like, next(left))


@pytest.mark.parametrize("between", ["renoise", "posterior"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_chain_by_hand(between, temperature):
    steps, seen = [999, 667, 583, 500], []

    def predict(noisy, step, before):
        seen.append((step, before))
        return 0.5 * noisy + step / 1000

    start = torch.tensor([[0.2], [-0.4]], dtype=torch.float64).view(2, 1, 1, 1)
    found = sample_few_steps(predict, start, SCHEDULE, steps, between, noises(0.7, -1.1, 0.4), temperature)
    z = start.numpy()
    for index, (step, eps) in enumerate(zip(steps, [0.7, -1.1, 0.4, None], strict=True)):
        guess = 0.5 * z + step / 1000
        np.testing.assert_allclose(found[index].numpy(), guess, rtol=1e-12)
        if eps is None:
            break
        t, s = step, steps[index + 1]
        if index == 0 or between == "renoise":
            z = np.sqrt(ABAR[s]) * guess + temperature * np.sqrt(1 - ABAR[s]) * eps
        else:
            a = ABAR[t] / ABAR[s]
            mean = np.sqrt(ABAR[s]) * (1 - a) * guess + np.sqrt(a) * (1 - ABAR[s]) * z
            sigma = np.sqrt((1 - a) * (1 - ABAR[s]) / (1 - ABAR[t]))
            z = mean / (1 - ABAR[t]) + temperature * sigma * eps
    assert [step for step, _ in seen] == steps
    assert seen[0][1] is None
    assert all(before is found[i] for i, (_, before) in enumerate(seen[1:]))


def gain(t, std):
    """k of E(z_0 | z_t) = m + k (z_t - √ᾱ m) for z_0 ~ N(m, std²)."""
    return np.sqrt(ABAR[t]) * std**2 / (ABAR[t] * std**2 + 1 - ABAR[t])


def spread(steps, between, std):
    """Variance of the last estimate of a perfect denoiser of N(0, std²) from noise alone."""
    total = 0.0
    for place in range(len(steps)):  # the estimate is linear in the noise of every step
        noise = [float(index == place) for index in range(len(steps))]
        start = torch.full((1, 1, 1, 1), noise[0] * np.sqrt(1 - ABAR[steps[0]]), dtype=torch.float64)
        found = sample_few_steps(lambda z, t, _: gain(t, std) * z, start, SCHEDULE, steps, between, noises(*noise[1:]))
        total += found[-1].item() ** 2
    return total


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_more_steps_leave_gaussian_data_less_faithful_and_nearer_its_spread(std):
    """With the truth independent of the noise the squared error is std² + spread: one step has least."""
    found = [spread(steps, "posterior", std) for steps in ([999], *map(structure_steps, (6, 12, 18)))]
    assert found == sorted(found)
    assert found[0] == pytest.approx(gain(999, std) ** 2 * (1 - ABAR[999]), rel=1e-12)
    first = found[0]
    k = gain(667, std)
    assert found[1] == pytest.approx(k**2 * (ABAR[667] * first + 1 - ABAR[667]), rel=1e-12)
    addsr = [spread([999, 749, 499, 249][:count], "renoise", std) for count in (1, 2, 3, 4)]
    assert addsr == sorted(addsr)
    assert found[3] < addsr[3] < std**2
