"""What every teacher promises, and what each adds."""

import copy

import numpy as np
import pytest
import tiny
import torch

from ctsr_lightning import teachers
from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.networks import KLCodec, OneStepStudent
from ctsr_lightning.teachers import OneStepTeacher, ResidualShiftTeacher, Teacher, add_noise

SCHEDULE = NoiseSchedule()

MAKERS = {
    "one step, own score": tiny.realness_teacher,
    "one step, adapters": lambda: OneStepTeacher(tiny.adapted_student()),
    "one step, base score": lambda: OneStepTeacher(tiny.adapted_student(), score="base"),
    "residual shift": tiny.fidelity_teacher,
    "residual shift from a linear estimate": lambda: ResidualShiftTeacher(tiny.shift_network(residual_std=0.3)),
}


@pytest.fixture(params=MAKERS)
def teacher(request) -> Teacher:
    return MAKERS[request.param]()


def noised(dtype=torch.float32, timesteps=(30, 500, 970)):
    clean, noise = torch.randn(2, len(timesteps), 4, 8, 8, dtype=dtype).unbind()
    return add_noise(SCHEDULE, clean.requires_grad_(), noise, torch.tensor(timesteps))


@pytest.fixture
def lq():
    return torch.rand(3, 3, 8, 8)


def test_every_teacher_of_the_package_is_under_contract():
    public = {getattr(teachers, name) for name in teachers.__all__}
    classes = {c for c in public if isinstance(c, type) and issubclass(c, Teacher) and c is not Teacher}
    assert classes == {type(make()) for make in MAKERS.values()}


def test_noise_has_the_shape_of_the_latent_in_float32(teacher, lq):
    noise = teacher.predict_noise(noised(), teacher.condition(lq))
    assert noise.shape == (3, 4, 8, 8)
    assert noise.dtype == torch.float32


def test_teacher_has_no_parameters_and_no_state(teacher):
    assert not list(teacher.parameters())
    assert not teacher.state_dict()


def test_condition_carries_no_gradient(teacher, lq):
    condition = teacher.condition(lq.requires_grad_())
    assert condition is None or not condition.requires_grad


def test_sides_are_multiples_of_what_it_says(teacher):
    side = teacher.multiple // teacher.scale
    assert side * teacher.scale == teacher.multiple
    assert teacher.restore(torch.rand(1, 3, 2 * side, 3 * side)).shape[-2:] == (
        2 * teacher.multiple,
        3 * teacher.multiple,
    )


def test_gradient_reaches_the_clean_latent(teacher, lq):
    noisy = noised()
    teacher.predict_noise(noisy, teacher.condition(lq)).square().sum().backward()
    assert noisy.clean.grad.abs().sum() > 0


def test_no_gradient_without_being_allowed(teacher, lq):
    with torch.no_grad():
        assert not teacher.predict_noise(noised(), teacher.condition(lq)).requires_grad


def test_restored_images_are_enlarged_clipped_and_detached(teacher, lq):
    restored = teacher.restore(lq)
    assert restored.shape == (3, 3, 8 * teacher.scale, 8 * teacher.scale)
    assert 0.0 <= restored.min() <= restored.max() <= 1.0
    assert not restored.requires_grad


def test_restoring_twice_gives_the_same_bits(teacher, lq):
    torch.manual_seed(1)
    first = teacher.restore(lq)
    torch.manual_seed(2)
    assert torch.equal(teacher.restore(lq), first)


def test_restoring_does_not_depend_on_the_batch(teacher, lq):
    teacher, lq = teacher.double(), lq.double()
    torch.testing.assert_close(teacher.restore(lq)[1:2], teacher.restore(lq[1:2]), rtol=0, atol=1e-9)


def test_noise_does_not_depend_on_the_batch(teacher, lq):
    teacher, lq, noisy = teacher.double(), lq.double(), noised(torch.float64)
    together = teacher.predict_noise(noisy, teacher.condition(lq))
    one = type(noisy)(*(part[1:2] for part in noisy))
    torch.testing.assert_close(teacher.predict_noise(one, teacher.condition(lq[1:2])), together[1:2], rtol=0, atol=1e-9)


def test_copies_share_the_networks_and_answer_alike(teacher, lq):
    noisy, copied = noised(), copy.deepcopy(teacher)
    condition = teacher.condition(lq)
    assert torch.equal(copied.predict_noise(noisy, condition), teacher.predict_noise(noisy, condition))
    assert copied.frozen.network is teacher.frozen.network


def test_training_mode_changes_nothing(teacher, lq):
    noisy, condition = noised(), teacher.condition(lq)
    before = teacher.predict_noise(noisy, condition)
    assert torch.equal(teacher.train().predict_noise(noisy, condition), before)


def test_half_precision_regions_still_answer_in_float32(teacher, lq):
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher.predict_noise(noised(), teacher.condition(lq)).dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"residual_std": 0.3}])
def test_residual_shift_is_carried_over_by_its_formula(lq, options):
    teacher, lq, noisy = (
        ResidualShiftTeacher(tiny.shift_network(**options)).double(),
        lq.double(),
        noised(torch.float64),
    )
    network = teacher.frozen.network
    condition = teacher.condition(lq)
    found = teacher.predict_noise(noisy, condition).detach().numpy()
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
        np.testing.assert_allclose(found[k], expected, rtol=1e-9, atol=1e-9)


def test_perfect_residual_shift_predicts_the_noise_itself(lq):
    teacher, noisy = tiny.fidelity_teacher().double(), noised(torch.float64)
    teacher.frozen.network.predict_clean = lambda shifted, step, degraded: noisy.clean
    found = teacher.predict_noise(noisy, teacher.condition(lq.double()))
    torch.testing.assert_close(found, noisy.noise, rtol=1e-9, atol=1e-9)


def test_residual_shift_walks_the_whole_chain(lq):
    teacher, steps = tiny.fidelity_teacher(), []
    teacher.frozen.network.unet.register_forward_pre_hook(lambda module, args: steps.append(args[1].tolist()))
    teacher.restore(lq)
    assert steps == [[750.0] * 3, [500.0] * 3, [250.0] * 3, [0.0] * 3]  # of the range that the embedding resolves


def test_residual_shift_at_temperature_zero_follows_the_means(lq):
    network = tiny.shift_network(temperature=0.0)
    first, second = (ResidualShiftTeacher(network, seed=seed).restore(lq) for seed in (0, 1))
    assert torch.equal(first, second)


def test_residual_shift_follows_its_seed(lq):
    network = tiny.shift_network()
    first, second = (ResidualShiftTeacher(network, seed=seed).restore(lq) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_residual_shift_needs_its_condition():
    with pytest.raises(ValueError, match="needs the answer of its own `condition`"):
        tiny.fidelity_teacher().predict_noise(noised(), None)


def test_residual_shift_refuses_a_unet_of_another_width():
    with pytest.raises(ValueError, match=r"8 channels in .* and 4 out .* found 4 in and 4 out"):
        tiny.shift_network(unet=tiny.unet())


def test_own_score_is_the_students_unet(lq):
    student = tiny.adapted_student()
    noisy, teacher = noised(), OneStepTeacher(student)
    expected = student.unet(noisy.latent, noisy.timestep, student.prompt(lq)).sample
    assert torch.equal(teacher.predict_noise(noisy, teacher.condition(lq)), expected)


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


def test_base_score_refuses_recomputation(lq):
    # Recomputed in the backward pass, the adapters would be on again.
    teacher = OneStepTeacher(tiny.adapted_student(gradient_checkpointing=True), score="base")
    with pytest.raises(ValueError, match="gradient_checkpointing to false"):
        teacher.predict_noise(noised(), teacher.condition(lq))
    with torch.no_grad():
        plain = OneStepTeacher(tiny.adapted_student(), score="base")
        noisy = noised()
        assert torch.equal(
            teacher.predict_noise(noisy, teacher.condition(lq)), plain.predict_noise(noisy, plain.condition(lq))
        )
