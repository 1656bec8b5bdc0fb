"""Paths, solvers and the Gaussian solution of conditional flows, in float64."""

import numpy as np
import pytest
import torch

from ctsr_lightning.diffusion.flow import (
    STAGES,
    GaussianFlow,
    expand,
    integrate,
    interpolate,
    perturb,
    step_velocity,
)
from helpers.gaussian_flow import GaussianOracle

SOLVERS = ("euler", *STAGES)
RATIOS = [(0.3, 1.0), (0.5, 0.5), (0.9, 0.3), (1.0, 0.7)]
"""(σ, S)."""


def latents(count=2, seed=0):
    return torch.randn(count, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def gaussian(sigma, std):
    c, m, noise = (x[0] for x in latents(3))
    oracle = GaussianOracle(sigma, std, c.numpy(), m.numpy())
    return GaussianFlow(sigma, std), oracle, c[None], m[None], noise[None]


def test_oracle_s_paths_follow_its_velocity():
    _, oracle, _, _, noise = gaussian(0.3, 0.8)
    for time in (0.0, 0.2, 0.7, 0.99):
        h = 1e-6
        slope = (oracle.path(noise.numpy(), time + h) - oracle.path(noise.numpy(), time)) / h
        np.testing.assert_allclose(slope, oracle.velocity(oracle.path(noise.numpy(), time), time), atol=1e-4)


def test_perturbation_lies_between_condition_and_noise():
    c, noise = latents()
    assert torch.equal(perturb(c, noise, 0.0), c)
    assert torch.equal(perturb(c, noise, 1.0), noise)
    np.testing.assert_allclose(perturb(c, noise, 0.6), 0.8 * c + 0.6 * noise, rtol=1e-12)


def test_perturbation_keeps_unit_variance():
    c, noise = torch.randn(2, 1, 1, 400, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = perturb(c, noise, 0.6)
    assert found.mean().item() == pytest.approx(0.0, abs=0.01)
    assert found.var().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_path_is_straight(time):
    x_0, x_1 = latents()
    found = interpolate(x_0, x_1, times(time, time, time))
    np.testing.assert_allclose(found, (1 - time) * x_0 + time * x_1, rtol=1e-12, atol=1e-15)


def test_every_image_has_its_own_place_on_the_path():
    x_0, x_1 = (x[:2] for x in latents())
    found = interpolate(x_0, x_1, times(0.0, 1.0))
    assert torch.equal(found[0], x_0[0])
    assert torch.equal(found[1], x_1[1])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_constant_velocity_is_solved_exactly(solver, steps):
    x_0, v = latents()
    np.testing.assert_allclose(integrate(lambda *_: v, x_0, steps, solver), x_0 + v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_linear_velocity_is_solved_exactly_by_second_order(solver, steps):
    x_0, b = latents()
    found = integrate(lambda x, t: 2 * expand(t, x) * b, x_0, steps, solver)
    missing = 1 / steps if solver == "euler" else 0.0
    np.testing.assert_allclose(found, x_0 + (1 - missing) * b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_have_their_order_on_a_rotation(solver):
    start = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
    expected = np.array([np.cos(1), np.sin(1)])

    def turn(x, _):
        return torch.stack([-x[:, 1], x[:, 0]], dim=1)

    errors = [np.linalg.norm(integrate(turn, start, n, solver).flatten().numpy() - expected) for n in (32, 64)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1 if solver == "euler" else 2, abs=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_is_that_of_the_textbook(solver):
    x, b = (x[:2] for x in latents())
    t, h = times(0.2, 0.5), times(0.1, 0.3)

    def field(x, t):
        return torch.sin(x) + expand(t, x) * b

    v_1 = field(x, t)
    if solver == "euler":
        expected = v_1
    else:
        r = STAGES[solver]
        v_2 = field(x + r * h.view(2, 1, 1, 1) * v_1, t + r * h)
        expected = (1 - 1 / (2 * r)) * v_1 + v_2 / (2 * r)
    for first in (None, v_1):
        torch.testing.assert_close(step_velocity(field, x, t, h, solver, first), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [3, 7, 49])
def test_no_time_leaves_the_flow(solver, steps):
    seen = []
    integrate(lambda x, t: (seen.append(t), x)[1], torch.zeros(1, 1, 1, 1), steps, solver)
    assert 0.0 == min(t.item() for t in seen) < max(t.item() for t in seen) <= 1.0
    assert len(seen) == steps * (1 if solver == "euler" else 2)


@pytest.mark.parametrize(("sigma", "std"), RATIOS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_gaussian_flow_is_solved_as_its_recurrence(sigma, std, solver, steps):
    flow, oracle, c, m, noise = gaussian(sigma, std)
    x_0 = perturb(c, noise, sigma)
    found = integrate(lambda x, t: flow.velocity(x, t, c, m), x_0, steps, solver)
    np.testing.assert_allclose(found, m + oracle.amplitude(steps, solver) * noise, rtol=1e-9, atol=1e-9)
    if (solver, steps) == ("euler", 1):
        np.testing.assert_allclose(found, m, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "steps", "amplitude"),
    [("euler", 2, 0.50), ("euler", 4, 0.72), ("euler", 8, 0.85), ("euler", 20, 0.94), ("midpoint", 4, 0.998)],
)
def test_more_steps_restore_more_of_the_noise(solver, steps, amplitude):
    c = m = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    flow = GaussianFlow(0.4, 0.4)
    found = integrate(lambda x, t: flow.velocity(x, t, c, m), torch.full_like(c, 0.4), steps, solver)
    assert found.item() / 0.4 == pytest.approx(amplitude, abs=0.005)


@pytest.mark.parametrize(("sigma", "std"), RATIOS)
@pytest.mark.parametrize("time", [0.0, 0.1, 0.5, 1.0])
def test_gaussian_velocities_are_those_of_the_paths(sigma, std, time):
    flow, oracle, c, m, noise = gaussian(sigma, std)
    x_0, t = perturb(c, noise, sigma), times(time)
    np.testing.assert_allclose(x_0, oracle.start(noise.numpy()), rtol=1e-12, atol=1e-12)
    x = torch.from_numpy(oracle.path(noise.numpy(), time))
    np.testing.assert_allclose(flow.velocity(x, t, c, m), oracle.velocity(x.numpy(), time), rtol=1e-9, atol=1e-9)
    mean_velocity = flow.mean_velocity(x_0, t, c, m)
    secant = (x.numpy() - x_0.numpy()) / time if time else oracle.velocity(x_0.numpy(), 0.0)
    np.testing.assert_allclose(mean_velocity, secant, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x_0 + mean_velocity, m + flow.amplitude(t) * noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sigma", "std"), RATIOS)
def test_stable_gains_are_the_naive_ones(sigma, std):
    flow, t = GaussianFlow(sigma, std), torch.linspace(0.01, 1, 30, dtype=torch.float64)
    naive = (torch.hypot((1 - t) * sigma, t * std) - sigma) / t
    np.testing.assert_allclose(flow.mean_gain(t), naive, rtol=1e-9, atol=1e-9)
    ends = flow.amplitude(times(0.0, 1.0))
    np.testing.assert_allclose(ends, [0.0, std], rtol=1e-12, atol=1e-12)
    assert flow.mean_gain(times(0.0)).item() == pytest.approx(-sigma, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "shares"),
    [
        (0.3, [0.36, 0.65, 0.74, 0.82, 0.93]),
        (1.0, [0.12, 0.30, 0.41, 0.54, 0.78]),
        (3.0, [0.04, 0.11, 0.16, 0.24, 0.50]),
    ],
)
def test_noise_relative_to_the_spread_makes_the_slider_even_or_not(ratio, shares):
    found = GaussianFlow(0.3, 0.3 / ratio).amplitude(times(0.2, 0.4, 0.5, 0.6, 0.8)) / (0.3 / ratio)
    np.testing.assert_allclose(found, shares, atol=0.006)


def test_error_grows_by_the_amplitude():
    flow, truth = GaussianFlow(0.5, 0.4), torch.Generator().manual_seed(3)
    c = m = torch.zeros(1, 1, 600, 600, dtype=torch.float64)
    x_1, noise = (torch.randn(c.shape, generator=truth, dtype=torch.float64) for _ in range(2))
    for time in (0.0, 0.5, 1.0):
        restored = 0.5 * noise + flow.mean_velocity(0.5 * noise, times(time), c, m)
        expected = 0.4**2 + flow.amplitude(times(time)).item() ** 2
        assert (restored - 0.4 * x_1).square().mean().item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_deviation_is_the_noise_along_a_path_and_the_remainder_what_x_leaves_open(time):
    flow, t = GaussianFlow(0.3, 0.5), torch.tensor([time], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    c, m, noise = (torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    x = (1 - time) * 0.91**0.5 * c + time * m + flow.variance(t).sqrt() * noise
    torch.testing.assert_close(flow.deviation(x, t, c, m), noise, rtol=1e-12, atol=1e-12)
    joint = np.array([[0.09, 0.0], [0.0, 0.25]])  # of x_0 and x_1
    change, state = np.array([-1.0, 1.0]), np.array([1 - time, time])
    left = change @ joint @ change - (change @ joint @ state) ** 2 / (state @ joint @ state)
    assert float(flow.remainder(t)) == pytest.approx(left**0.5, rel=1e-12)


def test_spread_may_differ_from_channel_to_channel():
    std = torch.tensor([0.2, 0.7], dtype=torch.float64).view(2, 1, 1)
    _, _, c, m, noise = gaussian(0.3, 0.2)
    x_0, t = perturb(c, noise, 0.3), times(0.4)
    for method in ("velocity", "mean_velocity"):
        found = getattr(GaussianFlow(0.3, std), method)(x_0, t, c, m)
        for channel in range(2):
            one = getattr(GaussianFlow(0.3, std[channel].item()), method)(x_0, t, c, m)
            torch.testing.assert_close(found[:, channel], one[:, channel], rtol=1e-12, atol=1e-12)
