"""What every teacher promises, and what each adds."""

import copy

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from ctsr_lightning import teachers
from ctsr_lightning.cache import CachedTeacher
from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.teachers import ExpertTeacher, FlowTeacher, OneStepTeacher, ResShiftTeacher, Teacher
from ctsr_lightning.teachers.base import through_identity
from helpers import tiny, tiny_experts, tiny_resshift

SCHEDULE = NoiseSchedule()

MAKERS = {
    "one step, own score": tiny.realness_teacher,
    "one step, adapters": lambda: OneStepTeacher(tiny.adapted_student()),
    "one step, base score": lambda: OneStepTeacher(tiny.adapted_student(), score="base"),
    "one step, score of a prior": lambda: OneStepTeacher(tiny.student(), score=tiny.unet(seed=7)),
    "one step, guided score": lambda: OneStepTeacher(
        tiny.adapted_student(), score="base", guidance=3.0, negative_prompt=tiny.TinyPrompt(-1.0)
    ),
    "residual shift": tiny.fidelity_teacher,
    "residual shift, limited": lambda: ResShiftTeacher(tiny.shift_network(), clip=5.0),
    "residual shift, one step": lambda: ResShiftTeacher(tiny.shift_network(steps=1)),
    "residual shift from a linear estimate": lambda: ResShiftTeacher(tiny.shift_network(residual_std=0.3)),
    "flow": lambda: FlowTeacher(tiny.flow_network()),
    "flow, limited, from a linear one": lambda: FlowTeacher(tiny.flow_network(residual_std=0.25), clip=5.0),
    "bridge": tiny_resshift.bridged_teacher,
    "bridge, one step": lambda: tiny_resshift.bridged_teacher(version="v1", one_step=True),
}


RESTORERS = {
    "expert": tiny_experts.expert_teacher,
    "expert that folds pixels": lambda: tiny_experts.expert_teacher(tiny_experts.rrdb(2), scale=2),
}
"""Teachers that restore, but refuse to judge."""


@pytest.fixture(params=MAKERS)
def teacher(request) -> Teacher:
    return MAKERS[request.param]()


@pytest.fixture(params=MAKERS | RESTORERS)
def restorer(request) -> Teacher:
    return (MAKERS | RESTORERS)[request.param]()


def noised(dtype=torch.float32, timesteps=(30, 500, 970), seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(len(timesteps), 4, 8, 8, generator=generator, dtype=dtype)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9), dtype=dtype)
    image = torch.rand(len(timesteps), 3, 32, 32, generator=generator, dtype=dtype)
    return add_noise(SCHEDULE, clean.requires_grad_(), noise, torch.tensor(timesteps), image.requires_grad_())


def normal(like):
    """The same noise for every image, whatever batch it comes in."""
    return torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(5), dtype=like.dtype).expand_as(like)


def ask(teacher, lq, student, gt, gradient="paper"):
    return teacher.targets(student, gt, teacher.condition(lq), gradient, normal)


@pytest.fixture
def lq():
    return torch.rand(3, 3, 8, 8)


def test_every_teacher_of_the_package_is_under_contract():
    public = {getattr(teachers, name) for name in teachers.__all__}
    classes = {c for c in public if isinstance(c, type) and issubclass(c, Teacher) and c is not Teacher}
    only_reads = {CachedTeacher}  # knows the images of its cache and refuses to judge any
    only_restores = {type(make()) for make in RESTORERS.values()}
    assert only_restores == {ExpertTeacher}
    assert classes - only_reads - only_restores == {type(make()) for make in MAKERS.values()}


@pytest.mark.parametrize("gradient", ["paper", "score"])
def test_targets_are_float32_and_comparable(teacher, lq, gradient):
    targets = ask(teacher, lq, noised(), noised(seed=1), gradient)
    assert targets.align.shape == (3, 4, 8, 8)
    assert targets.prior.shape == targets.prior_gt.shape
    assert {part.dtype for part in targets} == {torch.float32}


@pytest.mark.parametrize("gradient", ["paper", "score"])
def test_student_and_ground_truth_are_judged_alike(teacher, lq, gradient):
    targets = ask(teacher, lq, noised(), noised(), gradient)
    assert torch.equal(targets.prior, targets.prior_gt)
    other = ask(teacher, lq, noised(), noised(seed=1), gradient)
    assert not torch.equal(other.prior, other.prior_gt)
    assert torch.equal(other.align, targets.align)


def test_both_gradients_have_the_same_values(teacher, lq):
    student, gt = noised(), noised(seed=1)
    for paper, score in zip(ask(teacher, lq, student, gt), ask(teacher, lq, student, gt, "score"), strict=True):
        assert torch.equal(paper, score)


def test_teacher_has_no_parameters_and_no_state(restorer):
    assert not list(restorer.parameters())
    assert not restorer.state_dict()


def test_condition_carries_no_gradient(restorer, lq):
    condition = restorer.condition(lq.requires_grad_())
    assert condition is None or not condition.requires_grad


def test_sides_are_multiples_of_what_it_says(restorer):
    side = restorer.multiple // restorer.scale
    assert side * restorer.scale == restorer.multiple
    assert restorer.restore(torch.rand(1, 3, 2 * side, 3 * side)).shape[-2:] == (
        2 * restorer.multiple,
        3 * restorer.multiple,
    )


@pytest.mark.parametrize("gradient", ["paper", "score"])
@pytest.mark.parametrize("term", ["align", "prior"])
def test_gradient_reaches_what_the_student_made(teacher, lq, gradient, term):
    student = noised()
    getattr(ask(teacher, lq, student, noised(seed=1), gradient), term).square().sum().backward()
    assert sum(x.grad.abs().sum() for x in (student.clean, student.image) if x.grad is not None) > 0


def test_no_gradient_reaches_the_ground_truth(teacher, lq):
    assert not ask(teacher, lq, noised(), noised(seed=1)).prior_gt.requires_grad


def test_no_gradient_without_being_allowed(teacher, lq):
    with torch.no_grad():
        assert not any(part.requires_grad for part in ask(teacher, lq, noised(), noised(seed=1)))


def test_restored_images_are_enlarged_clipped_and_detached(restorer, lq):
    restored = restorer.restore(lq)
    assert restored.shape == (3, 3, 8 * restorer.scale, 8 * restorer.scale)
    assert 0.0 <= restored.min() <= restored.max() <= 1.0
    assert not restored.requires_grad


def test_restoring_twice_gives_the_same_bits(restorer, lq):
    torch.manual_seed(1)
    first = restorer.restore(lq)
    torch.manual_seed(2)
    assert torch.equal(restorer.restore(lq), first)


def test_restoring_does_not_depend_on_the_batch(restorer, lq):
    restorer, lq = restorer.double(), lq.double()
    torch.testing.assert_close(restorer.restore(lq)[1:2], restorer.restore(lq[1:2]), rtol=0, atol=1e-9)


def test_restoring_does_not_depend_on_the_place_in_the_batch(teacher, lq):
    teacher, lq = teacher.double(), lq.double()
    torch.testing.assert_close(teacher.restore(lq.flip(0)), teacher.restore(lq).flip(0), rtol=0, atol=1e-9)


def test_opinion_does_not_depend_on_the_batch(teacher, lq):
    teacher, lq = teacher.double(), lq.double()
    student, gt = noised(torch.float64), noised(torch.float64, seed=1)
    together = ask(teacher, lq, student, gt)
    alone = ask(teacher, lq[1:2], *(type(noisy)(*(part[1:2] for part in noisy)) for noisy in (student, gt)))
    for one, all_of_them in zip(alone, together, strict=True):
        torch.testing.assert_close(one, all_of_them[1:2], rtol=0, atol=1e-9)


def test_copies_share_the_networks_and_answer_alike(teacher, lq):
    student, gt, copied = noised(), noised(seed=1), copy.deepcopy(teacher)
    for mine, theirs in zip(ask(teacher, lq, student, gt), ask(copied, lq, student, gt), strict=True):
        assert torch.equal(mine, theirs)
    assert copied.frozen.network is teacher.frozen.network


def test_training_mode_changes_nothing(teacher, lq):
    student, gt = noised(), noised(seed=1)
    before = ask(teacher, lq, student, gt)
    for mine, theirs in zip(before, ask(teacher.train(), lq, student, gt), strict=True):
        assert torch.equal(mine, theirs)


def test_half_precision_regions_still_answer_in_float32(teacher, lq):
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in ask(teacher, lq, noised(), noised(seed=1))} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"residual_std": 0.3}])
@pytest.mark.parametrize("clip", [None, 5.0])
def test_residual_shift_is_carried_over_by_its_formula(lq, options, clip):
    teacher, lq, noisy = (
        ResShiftTeacher(tiny.shift_network(**options), clip).double(),
        lq.double(),
        noised(torch.float64),
    )
    network = teacher.frozen.network
    condition = teacher.condition(lq)
    found = teacher.targets(noisy, noised(torch.float64, seed=1), condition, "paper", normal)
    align, prior = found.align.detach().numpy(), found.prior.detach().numpy()
    alpha_bars, etas = SCHEDULE.alpha_bars.numpy(), network.schedule.etas.numpy()
    for k, t in enumerate((30, 500, 970)):
        a = alpha_bars[t]
        snr = (1 - etas) ** 2 / (4.0 * etas)
        tau = int(np.abs(np.log(snr) - np.log(a / (1 - a))).argmin())
        assert tau == k  # the three timesteps pair with three different steps
        z, y, eps = (x[k : k + 1].detach() for x in (noisy.clean, condition, noisy.noise))
        w = z + etas[tau] * (y - z) + 2.0 * np.sqrt(etas[tau]) * eps
        shown = torch.cat([w / np.sqrt(1 + 4.0 * etas[tau]), y], dim=1)
        clean = network.unet(shown, torch.tensor([250.0 * tau]), None).sample.detach().numpy()
        if options:
            gain = 0.09 * snr[tau] / (1 + 0.09 * snr[tau]) / (1 - etas[tau])
            clean = clean + (y + gain * (w - y)).numpy()
        expected = (noisy.latent[k].detach().numpy() - np.sqrt(a) * clean[0]) / np.sqrt(1 - a)
        np.testing.assert_allclose(align[k], expected, rtol=1e-9, atol=1e-9)
        # In its own process the prediction implies (w_τ - (1-η) ŵ - η w_y) / (κ √η), whatever t stands beside τ.
        eta, kappa = etas[tau], 2.0
        expected = ((w - eta * y).numpy()[0] - (1 - eta) * clean[0]) / (kappa * np.sqrt(eta))
        if clip and snr[tau] > clip:
            expected = eps.numpy()[0] + np.sqrt(clip / snr[tau]) * (expected - eps.numpy()[0])
        np.testing.assert_allclose(prior[k], expected, rtol=1e-9, atol=1e-9)
    assert (snr > 5.0).any()


def test_perfect_residual_shift_predicts_the_noise_itself(lq):
    teacher, noisy = tiny.fidelity_teacher().double(), noised(torch.float64)
    teacher.frozen.network.predict_clean = lambda shifted, step, degraded: noisy.clean
    found = ask(teacher, lq.double(), noisy, noisy)
    assert all(torch.equal(part, noisy.noise) for part in found)


@pytest.mark.parametrize("clip", [None, 5.0])
def test_a_flow_is_carried_over_by_its_formula(lq, clip):
    teacher, lq, noisy = FlowTeacher(tiny.flow_network(), clip).double(), lq.double(), noised(torch.float64)
    network, condition = teacher.frozen.network, teacher.condition(lq)
    found = teacher.targets(noisy, noised(torch.float64, seed=1), condition, "paper", normal)
    for k, t in enumerate((30, 500, 970)):
        a = SCHEDULE.alpha_bars[t].item()
        z, c, eps = (x[k : k + 1].detach() for x in (noisy.clean, condition, noisy.noise))
        tau = 0.5 * np.sqrt(a / (1 - a)) / (1 + 0.5 * np.sqrt(a / (1 - a)))
        assert (tau / ((1 - tau) * 0.5)) ** 2 == pytest.approx(a / (1 - a), rel=1e-12)
        x = tau * z + (1 - tau) * (0.75**0.5 * c + 0.5 * eps)
        time = torch.tensor([tau], dtype=torch.float64)
        clean = x + (1 - tau) * network.unet(torch.cat([x, c], dim=1), 999 * time, None).sample
        expected = ((noisy.latent[k : k + 1] - a**0.5 * clean) / (1 - a) ** 0.5).detach()
        torch.testing.assert_close(found.align[k : k + 1], expected, rtol=1e-9, atol=1e-9)
        share = 1.0 if clip is None else min(1.0, (clip * (1 - a) / a) ** 0.5)
        torch.testing.assert_close(found.prior[k : k + 1], eps + share * (expected - eps), rtol=1e-9, atol=1e-9)


def test_a_perfect_flow_predicts_the_noise_itself(lq):
    teacher, noisy = FlowTeacher(tiny.flow_network()).double(), noised(torch.float64)
    condition = teacher.condition(lq.double())
    teacher.frozen.network.velocity = lambda x, time, c: noisy.clean - (0.75**0.5 * c + 0.5 * noisy.noise)
    for part in teacher.targets(noisy, noisy, condition, "paper", normal):
        torch.testing.assert_close(part, noisy.noise, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="Expected the result of this FlowTeacher's `condition`, found None"):
        teacher.targets(noisy, noisy, None, "score", normal)


def test_residual_shift_walks_the_whole_chain(lq):
    teacher, steps = tiny.fidelity_teacher(), []
    teacher.frozen.network.unet.register_forward_pre_hook(lambda module, args: steps.append(args[1].tolist()))
    teacher.restore(lq)
    assert steps == [[750.0] * 3, [500.0] * 3, [250.0] * 3, [0.0] * 3]  # of the range that the embedding resolves


def test_residual_shift_may_answer_with_its_first_step(lq):
    network, asked = tiny.shift_network(steps=1, temperature=0.0), []
    network.unet.register_forward_pre_hook(lambda module, args: asked.append(args[1].tolist()))
    found = ResShiftTeacher(network).restore(lq)
    assert asked == [[750.0] * 3]
    degraded = network.degraded(lq)
    first = network.predict_clean(degraded, torch.full((3,), 3), degraded)
    assert torch.equal(found, ((network.codec.decode(first) + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("steps", [0, -1, 5])
def test_residual_shift_refuses_steps_that_the_chain_has_not(steps):
    with pytest.raises(ValueError, match=f"steps from 1 to 4, .* found {steps}"):
        tiny.shift_network(steps=steps)


def test_residual_shift_at_temperature_zero_follows_the_means(lq):
    network = tiny.shift_network(temperature=0.0)
    first, second = (ResShiftTeacher(network, seed=seed).restore(lq) for seed in (0, 1))
    assert torch.equal(first, second)


def test_residual_shift_follows_its_seed(lq):
    network = tiny.shift_network()
    first, second = (ResShiftTeacher(network, seed=seed).restore(lq) for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("temperature", [-0.1, 1.5, float("nan")])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(ValueError, match=rf"temperature in \[0, 1\], found {temperature}"):
        tiny.shift_network(temperature=temperature)


def test_temperature_scales_the_noise(lq):
    # The chain is not linear in its noise, yet close to it where there is little.
    cold, tepid, warm = (
        ResShiftTeacher(tiny.shift_network(temperature=x)).double().restore(lq.double()) for x in (0, 1e-4, 2e-4)
    )
    torch.testing.assert_close(warm - cold, 2 * (tepid - cold), rtol=0, atol=1e-2 * (warm - cold).abs().max())
    assert not torch.equal(tepid, cold)


def test_residual_shift_needs_its_condition():
    with pytest.raises(ValueError, match="needs the result of its own `condition`"):
        tiny.fidelity_teacher().targets(noised(), noised(), None, "score", normal)


def test_residual_shift_refuses_a_unet_of_another_width():
    with pytest.raises(ValueError, match=r"8 channels in .* and 4 out .* found 4 in and 4 out"):
        tiny.shift_network(unet=tiny.unet())


def test_own_score_is_the_students_unet(lq):
    student = tiny.adapted_student()
    noisy, teacher = noised(), OneStepTeacher(student)
    expected = student.unet(noisy.latent, noisy.timestep, student.prompt(lq)).sample
    assert torch.equal(teacher.predict_noise(noisy, teacher.condition(lq)), expected)


@pytest.mark.slow
def test_base_score_is_the_prior_beneath_the_adapters(lq):
    noisy, teacher = noised(), OneStepTeacher(tiny.adapted_student(), score="base")
    base = OneStepStudent(tiny.prompted_unet().requires_grad_(False), KLCodec(tiny.autoencoder()))
    condition = tiny.TinyPrompt()(lq)
    expected = base.predict_noise(noisy.latent, noisy.timestep, condition)
    assert torch.equal(teacher.predict_noise(noisy, teacher.condition(lq)), expected)
    own = OneStepTeacher(tiny.adapted_student()).predict_noise(noisy, condition)
    assert not torch.allclose(own, expected)


def test_base_score_still_restores_with_adapters(lq):
    own, base = (OneStepTeacher(tiny.adapted_student(), score=score) for score in ("own", "base"))
    noisy = noised()
    base.predict_noise(noisy, base.condition(lq))
    assert torch.equal(own.restore(lq), base.restore(lq))


def test_base_score_needs_adapters():
    with pytest.raises(ValueError, match="needs adapters over a base UNet"):
        OneStepTeacher(tiny.student(), score="base")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_score_of_a_prior_is_the_priors_and_restoring_is_not(lq, prediction):
    noisy, prior = noised(), tiny.unet(seed=7)
    teacher = OneStepTeacher(tiny.student(prediction=prediction), score=prior)
    output = prior(noisy.latent, noisy.timestep, None).sample
    a = noisy.alpha_bar
    expected = output if prediction == "epsilon" else (1 - a).sqrt() * noisy.latent + a.sqrt() * output
    found = ask(teacher, lq, noisy, noised(seed=1))
    torch.testing.assert_close(found.align, expected, rtol=1e-5, atol=1e-6)
    own = OneStepTeacher(tiny.student(prediction=prediction))
    assert torch.equal(teacher.restore(lq), own.restore(lq))
    assert not torch.allclose(ask(own, lq, noisy, noised(seed=1)).align, expected)


def test_score_of_a_prior_follows_the_teacher_and_is_none_of_its_parameters():
    prior = tiny.unet(seed=7)
    OneStepTeacher(tiny.student(), score=prior).double().train()
    assert {p.dtype for p in prior.parameters()} == {torch.float64}
    assert not prior.training
    assert not any(p.requires_grad for p in prior.parameters())


def test_score_of_another_latent_space_is_refused():
    with pytest.raises(ValueError, match=r"UNet with 4 channels in and out, .* found 8 in and 4 out.*distilled from"):
        OneStepTeacher(tiny.student(), score=tiny.unet(8))


@pytest.mark.parametrize("score", ["own", "base", "prior"])
def test_scores_are_named_in_configurations(tmp_path, lq, score):
    prior = tiny.unet(seed=7)
    save_file({f"student.unet.{k}": v for k, v in prior.state_dict().items()}, tmp_path / "weights.safetensors")
    unet = {"class_path": "ctsr_lightning.networks.nano_unet", "init_args": {"latent_channels": 4, "widths": [8, 16]}}
    network = {"unet": unet, "codec": {"class_path": "NanoCodec", "init_args": {"channels": 4, "width": 8}}}
    if score == "base":
        network["lora"] = {"class_path": "LoRA"}
    with_weights = {**unet, "init_args": {**unet["init_args"], "weights": str(tmp_path / "weights.safetensors")}}
    settings = {
        "class_path": "OneStepTeacher",
        "init_args": {
            "network": {"class_path": "OneStepStudent", "init_args": network},
            "score": with_weights if score == "prior" else score,
        },
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=Teacher)
    parsed = parser.parse_object({"teacher": settings})
    again = parser.parse_string(parser.dump(parsed))  # as in a checkpoint, or the config.yaml beside weights
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the old name, before 4.49
    for config in (parsed, again):
        teacher = instantiate(config).teacher
        assert (teacher.prior is None) is (score == "own")
        if score == "prior":
            found = teacher.predict_noise(noised(), None)
            assert torch.equal(found, prior.eval()(noised().latent, noised().timestep, None).sample)


def test_identity_keeps_the_value_and_passes_the_gradient():
    prediction, noisy, weight = torch.randn(3, 2, 4, 5, 5, dtype=torch.float64)
    noisy, prediction = noisy.requires_grad_(), prediction.requires_grad_()
    through = through_identity(prediction, noisy)
    assert torch.equal(through, prediction)
    (through * weight).sum().backward()
    assert torch.equal(noisy.grad, weight)
    assert prediction.grad is None
