"""CCSR's structure stage and the guided prior that it starts from."""

import pytest
import torch

from ctsr_lightning.modules import GuidedPrior, StructureRefinement
from ctsr_lightning.modules.draws import Draws
from helpers import tiny
from helpers.oracle import Oracle


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def with_oracle(training=StructureRefinement, prediction="v_prediction", error=0.0, **options):
    """The training of a student that knows the answer, and a batch."""
    denoiser, batch = Oracle(prediction, error), tiny.batch(dtype=torch.float64)
    module = training(tiny.few_step(denoiser=denoiser, prediction=prediction, steps=[999, 667]), **options).double()
    denoiser.clean = module.student.encode(batch.gt)
    return module, batch


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("training", [GuidedPrior, StructureRefinement])
def test_a_perfect_denoiser_has_no_loss(training, prediction):
    module, batch = with_oracle(training, prediction)
    for name, value in losses(module, batch).items():
        assert value.item() == pytest.approx(0.0, abs=1e-20), name


def test_first_step_weighs_an_error_by_the_prediction():
    """An error δ is (1-ᾱ)/ᾱ δ² = 213.6 δ² in ẑ_0 if it is one of ε, and (1-ᾱ) δ² = 0.995 δ² if one of v."""
    for prediction, first, second in (("epsilon", 213.59, 8.58), ("v_prediction", 0.99534, 0.8956)):
        module, batch = with_oracle(prediction=prediction, error=0.01)
        found = losses(module, batch)
        assert found["structure/start"].item() == pytest.approx(first * 1e-4, rel=1e-4)
        assert found["structure/jump"].item() == pytest.approx(second * 1e-4, rel=1e-3)
        assert found["structure/denoise"].item() == pytest.approx(1e-4, rel=1e-6)


def test_terms_are_three_calls():
    weights = {"lambda_start": 2.0, "lambda_jump": 3.0, "lambda_denoise": 5.0, "lambda_jump_noise": 7.0}
    module, batch = StructureRefinement(tiny.few_step(), **weights).double(), tiny.batch(dtype=torch.float64)
    student, draws = module.student, torch.Generator().manual_seed(0)
    eps, jumped_eps = (torch.randn(2, 4, 8, 8, generator=draws).double() for _ in range(2))
    t = torch.randint(0, 667, (2,), generator=draws)
    low_eps = torch.randn(2, 4, 8, 8, generator=draws).double()
    z_0, z_l, abar = student.encode(batch.gt), student.shared(batch.lq), student.schedule.alpha_bars
    a_t, a_m, a_low = abar[999], abar[667], abar[t].view(2, 1, 1, 1)

    def clean(z, a, step):
        v = student.denoiser(z, torch.full((2,), step), None, z_l)
        return a.sqrt() * z - (1 - a).sqrt() * v

    first = clean(a_t.sqrt() * z_l + (1 - a_t).sqrt() * eps, a_t, 999)
    jumped = a_m.sqrt() * first + (1 - a_m).sqrt() * jumped_eps
    second = clean(jumped, a_m, 667)
    low = a_low.sqrt() * z_0 + (1 - a_low).sqrt() * low_eps
    target = a_low.sqrt() * low_eps - (1 - a_low).sqrt() * z_0
    implied = (jumped - a_m.sqrt() * second) / (1 - a_m).sqrt()
    expected = {
        "structure/start": 2 * (first - z_0).square().mean(),
        "structure/jump": 3 * (second - z_0).square().mean(),
        "structure/denoise": 5 * (student.denoiser(low, t, None, z_l) - target).square().mean(),
        "structure/jump_noise": 7 * (implied - jumped_eps).square().mean(),
    }
    found = losses(module, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-9), name
    module.lambda_jump_noise = 0.0
    assert list(losses(module, batch)) == list(expected)[:3]


@pytest.mark.parametrize("start", ["lq", "truth"])
def test_what_the_denoiser_is_shown(start):
    module, batch = with_oracle(start=start)
    student, times = module.student, []
    z_l, z_0 = student.shared(batch.lq), student.denoiser.clean
    for seed in range(120):
        student.denoiser.calls.clear()
        losses(module, batch, seed)
        first, jump, low = student.denoiser.calls
        assert (first.timestep.tolist(), jump.timestep.tolist()) == ([999, 999], [667, 667])
        assert all(torch.equal(call.guide, z_l) for call in (first, jump, low))
        times += low.timestep.tolist()
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(119)).double()
    shone = {"lq": z_l, "truth": z_0}[start]
    torch.testing.assert_close(first.noisy, student.noised(shone, noise, 999), rtol=1e-12, atol=1e-12)
    assert (min(times) < 30, 636 < max(times) < 667) == (True, True)


def test_gradients_of_the_jump_reach_the_first_call():
    module, batch = with_oracle(error=0.3)
    module.student.denoiser.calls.clear()
    losses(module, batch)["structure/jump"].backward()
    through = module.student.denoiser.error.grad.item()
    abar = module.student.schedule.alpha_bars[667].item()
    # The oracle's exact part does not see ẑ_T: ẑ_m = √ᾱ z - √(1-ᾱ) (v(z) + δ) is z_0 - √(1-ᾱ) δ for any z.
    assert through == pytest.approx(2 * 0.3 * (1 - abar), rel=1e-6)
    module = StructureRefinement(tiny.few_step()).double()
    estimate, firsts = module.student.estimate, []

    def kept(*args):
        found = estimate(*args)
        found.retain_grad()
        firsts.append(found)
        return found

    module.student.estimate = kept
    losses(module, batch)["structure/jump"].backward()
    assert firsts[0].grad.abs().sum() > 0


@pytest.mark.parametrize(("share", "by_truth"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_the_prior_is_guided_by_the_input_or_the_truth(share, by_truth):
    module, batch = with_oracle(GuidedPrior, truth_as_guide=share)
    z_l, z_0, found, times = module.student.shared(batch.lq), module.student.denoiser.clean, set(), []
    for seed in range(60):
        module.student.denoiser.calls.clear()
        losses(module, batch, seed)
        (call,) = module.student.denoiser.calls
        found |= {torch.equal(guide, truth) for guide, truth in zip(call.guide, z_0, strict=True)}
        lq = (torch.equal(guide, latent) for guide, latent in zip(call.guide, z_l, strict=True))
        assert all(torch.equal(g, t) or low for g, t, low in zip(call.guide, z_0, lq, strict=True))
        times += call.timestep.tolist()
    assert found == by_truth
    assert (min(times) < 40, max(times) > 959) == (True, True)


def test_it_is_validated_by_number_of_steps_and_by_t():
    module, batch = StructureRefinement(tiny.few_step(steps=[999, 667])), tiny.batch()
    assert (module.method, module.controllable) == ("CCSR", True)
    references = module.references(batch)
    assert list(references) == ["1 step", "2 steps", "3 steps", "4 steps"]
    realistic, faithful = module.sweep(batch.lq, [0.0, 1.0], batch.key)
    assert torch.equal(realistic, module.restore(batch.lq))
    assert torch.equal(references["2 steps"], realistic)
    assert len({float(image.sum()) for image in references.values()}) == 4
    assert not torch.allclose(realistic, faithful)
    assert GuidedPrior(tiny.few_step(between="renoise")).method == "AddSR"


@pytest.mark.parametrize("make", [GuidedPrior, StructureRefinement])
def test_a_few_steps_lower_the_loss(make):
    module, batch, history = make(tiny.few_step()), tiny.batch(4), []
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(25):
        loss = sum(losses(module, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (StructureRefinement, {"t_max": 0.9995}, "below the student's first timestep 999, found 0.9995, timestep 1000"),
        (StructureRefinement, {"t_max": 0.0}, "Expected t_max above 0"),
        (StructureRefinement, {"grids": [7]}, "both steps of a grid of 7"),
        (GuidedPrior, {"truth_as_guide": 1.1}, r"Expected truth_as_guide in \[0, 1\], found 1.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(tiny.few_step(), **options)
