"""A distilled flow with its slider."""

import pytest
import torch

from ctsr_lightning.diffusion.sampling import noise_by_content
from ctsr_lightning.models.flows import OneStepFlow
from helpers import tiny


def model(double=True, **options) -> OneStepFlow:
    one = tiny.one_step_flow(**options).eval()
    return one.double() if double else one


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def start(model, lq, seed=0):
    return model.begin(model.shared(lq), generator(seed))


LQ = tiny.batch(3, dtype=torch.float64).lq


def test_state_is_the_noised_condition_and_the_condition():
    one = model()
    c = one.shared(LQ)
    assert torch.equal(c, one.network.degraded(LQ))
    x_0, condition = one.begin(c, generator()).chunk(2, dim=1)
    noise = torch.randn(4, 8, 8, generator=generator()).double()
    assert torch.equal(condition, c)
    torch.testing.assert_close(x_0, 0.75**0.5 * c + 0.5 * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("control", [0.0, 0.3, 1.0])
def test_control_turns_the_flow_s_time_round(control):
    one, times = model(), []
    one.network.unet.register_forward_pre_hook(lambda _, args: times.append(args[1]))
    state = start(one, LQ)
    found = one.at(state, control)
    x_0, c = state.chunk(2, dim=1)
    time = torch.full((3,), 1 - control, dtype=torch.float64)
    latent = x_0 + one.network.mean_velocity(x_0, time, c)
    torch.testing.assert_close(found, ((one.codec.decode(latent) + 1) / 2).clamp(0, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(times[0], 999 * time, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, one.at(state, torch.tensor(control, dtype=torch.float64)))


def test_slider_of_a_gaussian_flow():
    one = model(residual_std=0.25)
    for parameter in one.network.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    one.network.codec.decode = lambda latent: 0.1 * latent  # nothing is clipped
    c = one.shared(LQ)
    ends = [[one.at(start(one, LQ, seed), u) for u in (0.0, 1.0)] for seed in (0, 1)]
    noise = torch.randn(4, 8, 8, generator=generator()).double()
    torch.testing.assert_close(ends[0][0], (0.1 * (c + 0.25 * noise) + 1) / 2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ends[0][1], (0.1 * c + 1) / 2, rtol=1e-9, atol=1e-9)  # the mean, whatever the seed
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-9, atol=1e-9)
    for u in (0.2, 0.5, 0.9):
        share = (((u * 0.5) ** 2 + ((1 - u) * 0.25) ** 2) ** 0.5 - 0.5) / (1 - u) / 0.25 + 2.0  # g / S
        blend = share * ends[0][0] + (1 - share) * ends[0][1]
        torch.testing.assert_close(one.at(start(one, LQ), u), blend, rtol=1e-9, atol=1e-9)


def test_one_seed_gives_the_same_bits():
    one = model(double=False)
    lq = LQ.float()
    assert torch.equal(one.at(start(one, lq, 4), 0.2), one.at(start(one, lq, 4), 0.2))
    assert not torch.allclose(one.at(start(one, lq, 4), 0.2), one.at(start(one, lq, 5), 0.2))


def test_a_sweep_draws_the_noise_of_each_image_by_its_content():
    one = model()
    noise = noise_by_content(LQ, 4)(one.shared(LQ))
    state = torch.cat([one.network.start(one.shared(LQ), noise), one.shared(LQ)], dim=1)
    for found, control in zip(one.sweep(LQ, [0.2, 1.0], seed=4), (0.2, 1.0), strict=True):
        assert torch.equal(found, one.at(state, control))
    alone = one.sweep(LQ[[1]], [0.2], seed=4)[0]
    torch.testing.assert_close(alone, one.sweep(LQ, [0.2], seed=4)[0][[1]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("control", [0.0, 0.5, 1.0])
def test_an_image_does_not_depend_on_its_neighbours(control):
    one = model()
    whole = one.at(start(one, LQ), control)
    for chosen in ([1], [2, 1], [1, 1, 0]):
        alone = one.at(start(one, LQ[chosen]), control)[chosen.index(1)]
        torch.testing.assert_close(alone, whole[1], rtol=0, atol=1e-12)


def test_noise_without_a_generator_is_fresh():
    one = model()
    c = one.shared(LQ)
    assert not torch.equal(one.begin(c, None), one.begin(c, None))


def test_properties_of_the_slider():
    one = model(scale=2)
    assert (one.scale, one.multiple, one.cell, one.control_kind, one.random) == (2, 8, 2, "number", True)
    assert one.codec is one.network.codec


@pytest.mark.parametrize("control", [-0.1, 1.1, float("nan")])
def test_controls_beyond_the_ends_are_refused(control):
    one = model()
    with pytest.raises(ValueError, match=r"Expected values of the control t in \[0, 1\]"):
        one.at(start(one, LQ), control)


def test_maps_are_refused_with_the_reason():
    one = model()
    with pytest.raises(
        ValueError, match=r"Expected a number t .* found a map of shape \(32, 32\): t enters the time embedding"
    ):
        one.at(start(one, LQ), torch.zeros(32, 32))
