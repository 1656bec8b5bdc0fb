"""AddSR's training: its weights, inputs, guides and teacher, what each term reaches, one optimizer for two networks."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsr_lightning.codecs.codec import signed_to_unit
from ctsr_lightning.losses import adversarial
from ctsr_lightning.metrics.maps import TextureMaps
from ctsr_lightning.modules import AdversarialDistillation
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.networks import Discriminator
from helpers import tiny
from helpers.oracle import Oracle

STEPS = [999, 749, 499, 249]
WEIGHTS = (0.5, 1.05, 2.205, 4.6305)
ADDSR: dict[str, Any] = {"steps": STEPS, "between": "renoise", "refine": 0.5}


def distillation(**options: Any) -> AdversarialDistillation:
    torch.manual_seed(0)
    student, teacher = tiny.few_step(**ADDSR, seed=2), tiny.few_step(**ADDSR)
    parts = {"student": student, "teacher": teacher, "discriminator": Discriminator(TextureMaps(), 4), **options}
    return AdversarialDistillation(**parts).double()


def with_oracles(error: float = 0.0, **options: Any) -> tuple[AdversarialDistillation, Any]:
    """A student that knows the ground truth's latent, a teacher that knows another, and a batch."""
    student, teacher = (tiny.few_step(**ADDSR, denoiser=Oracle(error=wrong)) for wrong in (error, 0.0))
    module, batch = distillation(student=student, teacher=teacher, **options), tiny.batch(dtype=torch.float64)
    truth = module.student.encode(batch.gt)
    module.student.denoiser.clean, module.teacher.network.denoiser.clean = truth, truth + 0.1
    return module, batch


def losses(module: AdversarialDistillation, batch: Any, seed: int = 0) -> dict[str, Tensor]:
    module.draws = Draws(seed)
    return module.losses(batch)


def seed_of(module: AdversarialDistillation, index: int) -> int:
    """A seed with which a step is drawn."""
    for seed in range(100):
        module.draws = Draws(seed)
        if module._drawn_step() == index:
            return seed
    raise AssertionError(index)


def test_the_default_weights_are_eq_3() -> None:
    module = distillation()
    assert module.step_weights == pytest.approx([0.5 * 2.1**p for p in range(4)])
    pull = [module.lambda_adv / weight for weight in module.step_weights]  # of the discriminator, at ᾱ = 1
    assert [round(ratio, 4) for ratio in pull] == [0.04, 0.019, 0.0091, 0.0043]


def test_the_first_step_is_half_of_all() -> None:
    module = distillation()
    found = Counter()
    for seed in range(1200):
        module.draws = Draws(seed)
        found[module._drawn_step()] += 1
    assert found[0] / 1200 == pytest.approx(1 / 2, abs=0.05)
    for later in (1, 2, 3):
        assert found[later] / 1200 == pytest.approx(1 / 6, abs=0.04)
    single = distillation(student=tiny.few_step(steps=[999]), step_weights=[1.0])
    assert {single._drawn_step() for _ in range(4)} == {0}


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("draws", [1, 3])
def test_distillation_is_the_weighted_error_of_pixels(index: int, draws: int) -> None:
    """w_i mean √ᾱ_t e², e the error of images in [0, 1]: half of that in [-1, 1]."""
    module, batch = with_oracles(teacher_draws=draws)
    terms = losses(module, batch, seed_of(module, index))
    codec, truth = module.student.codec, module.student.denoiser.clean
    error = (codec.decode(truth + 0.1) - codec.decode(truth)).square().mean(dim=(1, 2, 3)) / 4.0
    calls = module.teacher.network.denoiser.calls
    assert len(calls) == draws
    roots = torch.stack([module.student.schedule.alpha_bars[call.timestep].sqrt() for call in calls])
    expected = WEIGHTS[index] * (roots * error).mean()
    assert terms["distill"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("refine", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("index", range(4))
def test_ground_truth_is_noised_and_the_step_before_guides(index: int, refine: float) -> None:
    module, batch = with_oracles(error=0.2)
    student = module.student
    student.refine, seed = refine, seed_of(module, index)
    losses(module, batch, seed)
    z_l, z_0, calls = student.shared(batch.lq), student.denoiser.clean, student.denoiser.calls
    draws = Draws(seed)
    draws.generator.manual_seed(seed)
    torch.randint(0, 6, (), generator=draws.generator)
    eps = draws.normal(z_0)
    abar = student.schedule.alpha_bars

    def noised(step: int) -> Tensor:
        return abar[step].sqrt() * z_0 + (1 - abar[step]).sqrt() * eps

    assert [call.timestep.tolist() for call in calls] == [[t, t] for t in STEPS[max(0, index - 1) : index + 1]]
    for call in calls:
        torch.testing.assert_close(call.noisy, noised(int(call.timestep[0])), rtol=1e-12, atol=1e-12)
    assert torch.equal(calls[0].guide, z_l)
    if index:
        before = z_0 - (1 - abar[STEPS[index - 1]]).sqrt() * student.denoiser.error  # v is off by the error
        torch.testing.assert_close(calls[1].guide, refine * before + (1 - refine) * z_l, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", range(4))
def test_own_estimates_are_those_of_restoration(index: int) -> None:
    """A trained step sees input and guide that the chain from z_L gives it, with the same noise."""
    module, batch = with_oracles(error=0.2, forcing="own")
    student, seed = module.student, seed_of(module, index)
    losses(module, batch, seed)
    trained = list(student.denoiser.calls)
    z_l, draws = student.shared(batch.lq), Draws(seed)
    torch.randint(0, 6, (), generator=draws.generator)
    last = draws.normal(z_l)
    noise = [draws.normal(z_l.repeat(1, index, 1, 1))] if index else []
    student.denoiser.calls.clear()
    student.estimates(z_l, torch.cat([*noise, last], dim=1), None, STEPS[: index + 1])
    assert len(trained) == len(student.denoiser.calls) == index + 1
    for one, two in zip(trained, student.denoiser.calls, strict=True):
        for mine, its in zip(one, two, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def test_the_teacher_is_guided_by_the_ground_truth_at_every_t() -> None:
    module, batch = with_oracles(error=0.2)
    teacher, student, times = module.teacher.network, module.student, []
    for seed in range(150):
        teacher.denoiser.calls.clear()
        losses(module, batch, seed)
        (call,) = teacher.denoiser.calls
        assert torch.equal(call.guide, student.denoiser.clean)
        times += call.timestep.tolist()
    assert (min(times) < 25, max(times) > 974) == (True, True)
    assert len(set(times)) > 200
    seed = seed_of(module, 0)
    teacher.denoiser.calls.clear()
    losses(module, batch, seed)
    (call,), draws = teacher.denoiser.calls, Draws(seed)
    torch.randint(0, 6, (), generator=draws.generator)
    eps, abar = draws.normal(student.denoiser.clean), student.schedule.alpha_bars
    estimate = student.denoiser.clean - (1 - abar[999]).sqrt() * student.denoiser.error
    at = abar[call.timestep].view(2, 1, 1, 1)
    torch.testing.assert_close(call.noisy, at.sqrt() * estimate + (1 - at).sqrt() * eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", [0, 2])
def test_no_term_reaches_what_it_must_not(index: int) -> None:
    module = distillation(reconstruction=tiny.reconstruction(lambda_l2=0.0, lambda_lpips=0.0, lambda_grid=0.1).double())
    terms = losses(module, tiny.batch(dtype=torch.float64), seed_of(module, index))
    assert list(terms) == ["distill", "rec/grid", "adv", "disc/real", "disc/fake"]
    parts = [[p for p in module.student.parameters() if p.requires_grad], list(module.discriminator.parameters())]
    for name, term in terms.items():
        reached = [torch.autograd.grad(term, part, retain_graph=True, allow_unused=True) for part in parts]
        any_of = [any(g is not None and bool(g.any()) for g in gradients) for gradients in reached]
        assert any_of == ([False, True] if name.startswith("disc/") else [True, False]), name
        assert all(g is not None for g in reached[any_of.index(True)])  # no parameter is left out, whatever the step
    for frozen in (module.teacher.network, module.student.codec, module.discriminator.maps.network):
        assert not any(p.requires_grad for p in frozen.parameters())
    assert {name.split(".")[0] for name in module.trimmed_state()} == {"student", "discriminator"}


def test_the_step_before_has_no_gradient() -> None:
    module = distillation()
    seen: list[bool] = []
    estimate = module.student.estimate

    def kept(*args: Any) -> Tensor:
        found = estimate(*args)
        seen.append(found.requires_grad)
        return found

    module.student.estimate = kept  # type: ignore[method-assign]
    losses(module, tiny.batch(dtype=torch.float64), seed_of(module, 3))
    assert seen == [False, True]


def test_the_terms_of_the_discriminator() -> None:
    module, batch = distillation(lambda_adv=0.3, lambda_disc=0.7), tiny.batch(dtype=torch.float64)
    seed = seed_of(module, 0)
    terms, student, disc = losses(module, batch, seed), module.student, module.discriminator
    draws = Draws(seed)
    torch.randint(0, 6, (), generator=draws.generator)
    truth = student.encode(batch.gt)
    noisy = student.noised(truth, draws.normal(truth), 999)
    restored = signed_to_unit(student.codec.decode(student.estimate(noisy, 999, None, student.shared(batch.lq))))
    real, fake = disc(disc.maps(batch.gt)), disc(disc.maps(restored))
    for name, expected in {
        "adv": -0.3 * fake.mean(),
        "disc/real": 0.7 * (1.0 - real).relu().mean(),
        "disc/fake": 0.7 * (1.0 + fake).relu().mean(),
    }.items():
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-9), name


def test_one_optimizer_takes_the_steps_of_two_in_turn() -> None:
    """The student with the discriminator frozen, then the discriminator on the same images; AdamW in float64."""
    one = distillation(disc_lr=4e-3, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    two, batch = copy.deepcopy(one), tiny.batch(dtype=torch.float64)
    together = one.configure_optimizers()
    assert [group["lr"] for group in together.param_groups] == [1e-3, 4e-3]
    student = [p for p in two.student.parameters() if p.requires_grad]
    alone = torch.optim.AdamW(student, lr=1e-3), torch.optim.AdamW(two.discriminator.parameters(), lr=4e-3)
    seen: list[Tensor] = []
    two.discriminator.maps.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    for seed in range(5):
        together.zero_grad()
        sum(losses(one, batch, seed).values()).backward()
        together.step()

        two.discriminator.requires_grad_(False)
        seen.clear()
        terms = losses(two, batch, seed)
        restored, truth = (image.detach() for image in seen[:2])
        alone[0].zero_grad()
        (terms["distill"] + terms["adv"]).backward()
        alone[0].step()

        two.discriminator.requires_grad_(True)
        real, fake = (two.discriminator(two.discriminator.maps(image)) for image in (truth, restored))
        alone[1].zero_grad()
        (adversarial.hinge_real(real) + adversarial.hinge_fake(fake)).backward()
        alone[1].step()
    for mine, its in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)


def test_the_student_comes_nearer_to_a_teacher_that_knows_the_truth() -> None:
    teacher, batch = tiny.few_step(**ADDSR, denoiser=Oracle()), tiny.batch(4, dtype=torch.float64)
    module = distillation(teacher=teacher, optimizer=lambda p: torch.optim.Adam(p, lr=2e-3))
    teacher.denoiser.clean = module.student.encode(batch.gt)
    optimizer, history = module.configure_optimizers(), []
    for _ in range(25):
        terms = losses(module, batch, 3)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append(terms["distill"].item())
    assert history[-1] < 0.8 * history[0]


def test_it_is_validated_by_number_of_steps_and_by_t() -> None:
    module, batch = distillation(), tiny.batch(dtype=torch.float64)
    assert (module.method, module.controllable, module.fixed_references) == ("AddSR", True, False)
    references = module.references(batch)
    assert list(references) == ["1 step", "2 steps", "3 steps", "4 steps"]
    realistic, faithful = module.sweep(batch.lq, [0.0, 1.0], batch.key)
    assert torch.equal(realistic, module.restore(batch.lq))
    assert torch.equal(references["4 steps"], realistic)
    assert not torch.allclose(realistic, faithful)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_weights": [0.7, 1.47]}, r"one of `step_weights` for each .*999, 749, 499, 249\], found \[0.7, 1.47\]"),
        ({"teacher_draws": 0}, "Expected teacher_draws of at least 1, found 0"),
        ({"teacher": tiny.few_step(scale=2)}, "Expected a teacher with the student's scale 4, found 2"),
        (
            {"student": tiny.few_step(steps=STEPS), "forcing": "own"},
            "Expected a student with `between: renoise` for `forcing: own`, found posterior",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation(**options)
