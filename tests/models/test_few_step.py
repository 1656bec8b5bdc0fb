"""The student of a few steps."""

import pytest
import torch
from safetensors.torch import save_file

from ctsr_lightning.diffusion import structure_steps
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import FewStepStudent
from helpers import tiny
from helpers.oracle import Oracle
from helpers.small_flow import ShuffleCodec

LQ = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def oracle_student(clean=None, **options) -> FewStepStudent:
    student = tiny.few_step(denoiser=Oracle(options.get("prediction", "v_prediction")), **options).double()
    student.denoiser.clean = torch.full((2, 4, 8, 8), 0.3, dtype=torch.float64) if clean is None else clean
    return student


def noise_of(student, seed=0, count=None):
    count = len(student.timesteps) if count is None else count
    return torch.randn(2, 4 * count, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("between", ["renoise", "posterior"])
@pytest.mark.parametrize("refine", [0.0, 0.5, 1.0])
def test_a_perfect_denoiser_finds_the_clean_latent_at_every_step(prediction, between, refine):
    student = oracle_student(steps=structure_steps(18), prediction=prediction, between=between, refine=refine)
    for found in student.estimates(student.shared(LQ), noise_of(student)):
        torch.testing.assert_close(found, student.denoiser.clean, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("start", "share"), [("lq", 1.0), ("noise", 0.0)])
def test_first_input_and_guides(start, share):
    student = oracle_student(steps=[999, 749, 499], start=start, refine=0.25, between="renoise", temperature=0.7)
    z_l, noise = student.shared(LQ), noise_of(student)
    estimates = student.estimates(z_l, noise)
    calls, abar = student.denoiser.calls, student.schedule.alpha_bars
    assert [call.timestep.tolist() for call in calls] == [[999] * 2, [749] * 2, [499] * 2]
    expected = share * abar[999].sqrt() * z_l + 0.7 * (1 - abar[999]).sqrt() * noise[:, :4]
    torch.testing.assert_close(calls[0].noisy, expected, rtol=1e-12, atol=1e-12)
    second = abar[749].sqrt() * estimates[0] + 0.7 * (1 - abar[749]).sqrt() * noise[:, 4:8]
    torch.testing.assert_close(calls[1].noisy, second, rtol=1e-12, atol=1e-12)
    assert torch.equal(calls[0].guide, z_l)
    for call, before in zip(calls[1:], estimates, strict=False):
        torch.testing.assert_close(call.guide, 0.25 * before + 0.75 * z_l, rtol=1e-12, atol=1e-12)


def test_without_refinement_the_guide_stays():
    student = oracle_student(refine=0.0)
    z_l = student.shared(LQ)
    student.estimates(z_l, noise_of(student))
    assert all(torch.equal(call.guide, z_l) for call in student.denoiser.calls)


def test_t_leads_from_all_steps_to_one():
    student = tiny.few_step().double()
    begun = student.begin(student.shared(LQ), torch.Generator().manual_seed(3))
    z_l, noise = begun[:, :4], begun[:, 4:]
    state, estimates = student.advance(begun, LQ), student.estimates(z_l, noise)
    assert torch.equal(student.latent_at(state, 0.0), estimates[-1])
    torch.testing.assert_close(student.latent_at(state, 1.0), estimates[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(student.latent_at(state, 0.25), 0.75 * estimates[-1] + 0.25 * estimates[0])
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(32, 32)
    shares = ramp.unflatten(1, (8, 4)).mean(2)[::4].view(1, 1, 8, 8)
    expected = (1 - shares) * estimates[-1] + shares * estimates[0]
    torch.testing.assert_close(student.latent_at(state, ramp), expected)
    one = tiny.few_step(steps=[999]).double()
    torch.testing.assert_close(one.estimates(z_l, noise[:, :4])[0], estimates[0])


def test_one_chain_serves_every_t():
    student = oracle_student()
    student.sweep(LQ, [0.0, 0.3, 1.0])
    assert len(student.denoiser.calls) == 3


def test_noise_of_a_sweep_is_that_of_the_image():
    student = tiny.few_step().double()
    first, again, other = (student.sweep(LQ, [0.2], seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(student.sweep(LQ[[1]], [0.2], seed=1)[0], first[[1]], rtol=0, atol=1e-10)
    assert torch.equal(student.restore_in(student.timesteps, LQ, seed=1), student.sweep(LQ, [0.0], seed=1)[0])
    assert not torch.equal(student.restore_in([999], LQ, seed=1), student.sweep(LQ, [0.0], seed=1)[0])


def test_without_noise_seeds_agree_bit_for_bit():
    student = tiny.few_step(temperature=0.0).double()
    assert torch.equal(student.sweep(LQ, [0.2], seed=1)[0], student.sweep(LQ, [0.2], seed=2)[0])
    assert not student.random
    student.temperature = 1.0
    assert student.random


def test_fewer_steps_are_the_first_ones():
    student = tiny.few_step(steps=[999, 749, 499]).double()
    for number in (1, 2, 3):
        student.steps = number
        assert (student.steps, student.timesteps) == (number, (999, 749, 499)[:number])
        fresh = tiny.few_step(steps=student.timesteps).double()
        assert torch.equal(student.restore(LQ), fresh.restore(LQ))
        assert student.control_kind == fresh.control_kind == ("none" if number == 1 else "map")
    for number in (0, 4):
        with pytest.raises(ValueError, match=rf"Expected 1 to 3 steps, .* \[999, 749, 499\], found {number}"):
            student.steps = number


def test_every_image_may_have_its_own_timestep():
    student = tiny.few_step(prediction="epsilon").double()
    z_l, noise = student.shared(LQ), noise_of(student, count=1)
    noisy = student.noised(z_l, noise, torch.tensor([999, 3]))
    found = student.estimate(noisy, torch.tensor([999, 3]), None, z_l)
    for i, step in enumerate((999, 3)):
        assert torch.equal(noisy[i], student.noised(z_l, noise, step)[i])
        torch.testing.assert_close(found[i], student.estimate(noisy, step, None, z_l)[i])


class Pointwise(Oracle):
    """A denoiser whose every latent is by itself, so that tiles are exact."""

    def forward(self, noisy, timestep, prompt, guide):
        return torch.tanh(noisy + 0.5 * guide)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tiles_share_the_noise_of_the_whole_image(temperature):
    denoiser = Pointwise()
    denoiser.unet = tiny.nano_unet(12, widths=(8, 16))
    student = FewStepStudent(denoiser, ShuffleCodec(), prediction="v_prediction", temperature=temperature).double()
    lq = torch.rand(1, 3, 13, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.0, 0.6):
        whole, tiled = (Restorer(student, "cpu", torch.float64, tile=tile)(lq, t) for tile in (0, 6))
        torch.testing.assert_close(whole[..., 8:-8, 8:-8], tiled[..., 8:-8, 8:-8], rtol=0, atol=0.05)


def test_trained_weights_are_loaded_whatever_the_steps(tmp_path):
    trained = tiny.few_step(seed=5)
    state = {f"student.{name}": p for name, p in trained.named_parameters() if p.requires_grad}
    assert all(name.startswith("student.denoiser.") for name in state)
    save_file(state, tmp_path / "weights.safetensors")
    loaded = tiny.few_step(steps=[999, 499], weights=tmp_path / "weights.safetensors")
    lq = LQ.float()
    assert torch.equal(loaded.restore_in([999], lq), trained.restore_in([999], lq))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": []}, r"Expected descending timesteps from 999 to 0, found \[\]"),
        ({"steps": [667, 999]}, "descending timesteps"),
        ({"steps": [999, 999]}, "descending timesteps"),
        ({"steps": [1000]}, "descending timesteps"),
        ({"steps": [5, -1]}, "descending timesteps"),
        ({"refine": 1.5}, r"Expected refine in \[0, 1\], found 1.5"),
        ({"temperature": -0.1}, r"Expected temperature in \[0, 1\], found -0.1"),
        ({"scale": 0}, "Expected an integer scale >= 1, found 0"),
        (
            {"codec": ShuffleCodec()},
            "Expected a UNet with the 12 channels of the codec's latents in and out, found 4 and 4",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.few_step(**options)


def test_a_step_that_amplifies_stays_out_of_bfloat16():
    for steps, prediction, dtype in (
        ([999, 499], "epsilon", torch.float32),
        ([499], "epsilon", torch.bfloat16),
        ([999], "v_prediction", torch.bfloat16),
    ):
        student = tiny.few_step(steps=steps, prediction=prediction)
        networks = student.prepare(torch.bfloat16)
        assert any(network is student.denoiser.unet and own == dtype for network, own in networks)
        with torch.autocast("cpu", torch.bfloat16):
            z_l = student.shared(LQ.float())
            found = student.estimate(z_l, steps[0], None, z_l)
        exact = student.estimate(z_l, steps[0], None, z_l)
        assert torch.equal(found, exact) is (dtype == torch.float32)
