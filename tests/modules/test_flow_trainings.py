"""The trainings of OFTSR: the flow and its one-step student."""

import numpy as np
import pytest
import torch

from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.models.flows import OneStepFlow
from ctsr_lightning.modules import ConditionalFlow, TunableFlow
from ctsr_lightning.modules.draws import Draws
from helpers import tiny

TERMS = ("flow/distil", "flow/align", "flow/boundary")


def tunable(student=None, teacher=None, **options) -> TunableFlow:
    return TunableFlow(OneStepFlow(student or tiny.flow_network()), teacher or tiny.flow_network(seed=7), **options)


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def replayed(batch):
    """Noise and times of `losses` with seed 0."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(len(batch.lq), 4, 8, 8, generator=draws).double()
    return noise, torch.rand(len(batch.lq), generator=draws, dtype=torch.float64)


def over(time):
    return time.view(-1, 1, 1, 1)


def bare(network, x, time, c):
    return network.unet(torch.cat([x, c], dim=1), 999.0 * time, None).sample


@pytest.mark.parametrize(("norm", "power"), [("l1", np.abs), ("l2", np.square)])
def test_flow_term_is_the_error_of_the_velocity(norm, power):
    module, batch = ConditionalFlow(tiny.multi_step_flow(), norm).double(), tiny.batch(dtype=torch.float64)
    network, (noise, time) = module.student.network, replayed(batch)
    x_1, c = network.encode(batch.gt), network.degraded(batch.lq)
    x_0 = 0.75**0.5 * c + 0.5 * noise
    velocity = bare(network, (1 - over(time)) * x_0 + over(time) * x_1, time, c)
    found = losses(module, batch)
    assert list(found) == ["flow/match"]
    expected = power((velocity - (x_1 - x_0)).detach().numpy()).mean()
    assert found["flow/match"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_distillation_is_three_terms(norm, solver):
    weights = {"lambda_distil": 2.0, "lambda_align": 3.0, "lambda_boundary": 5.0}
    module = tunable(dt=0.2, solver=solver, norm=norm, t_min=0.1, t_max=0.9, **weights).double()
    batch, power = tiny.batch(dtype=torch.float64), {"l1": torch.abs, "l2": torch.square}[norm]
    student, teacher, (noise, uniform) = module.student.network, module.teacher.network, replayed(batch)
    c = student.degraded(batch.lq)
    x_0 = 0.75**0.5 * c + 0.5 * noise
    t = 0.1 + 0.8 * uniform
    s, zero = (t + 0.2).clamp(max=1), torch.zeros_like(t)
    v_t, v_s, v_0 = (bare(student, x_0, time, c) for time in (t, s, zero))
    x_t = x_0 + over(t) * v_t
    at_t, at_0 = bare(teacher, x_t, t, c), bare(teacher, x_0, zero, c)
    step = at_t
    if solver == "heun":
        step = 0.5 * (at_t + bare(teacher, x_t + over(s - t) * at_t, s, c))
    residual = over(s) * (v_s - v_t) - over(s - t) * (step - v_t)  # Eq. 8
    expected = {
        "flow/distil": 2 * power(residual / over(s)),
        "flow/align": 3 * power((1 - over(t)) * (v_t - at_t)),
        "flow/boundary": 5 * power(v_0 - at_0),
    }
    found = losses(module, batch)
    assert tuple(found) == TERMS
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.mean().item(), rel=1e-9), name


@pytest.mark.parametrize("std", [None, 0.25])
def test_a_student_that_is_the_teacher_keeps_its_start(std):
    module = tunable(tiny.flow_network(residual_std=std), tiny.flow_network(residual_std=std)).double()
    found = losses(module, tiny.batch(dtype=torch.float64))
    assert found["flow/boundary"].item() == pytest.approx(0.0, abs=1e-28)
    assert found["flow/distil"].item() > 0.0


@pytest.mark.parametrize(("term", "place"), [("flow/align", 0), ("flow/distil", 1), ("flow/boundary", 2)])
def test_each_term_trains_one_call(term, place):
    module, calls = tunable(), []
    mean_velocity = module.student.network.mean_velocity

    def spied(*args):
        calls.append(mean_velocity(*args))
        calls[-1].retain_grad()
        return calls[-1]

    module.student.network.mean_velocity = spied
    losses(module, tiny.batch())[term].backward()
    (output,) = calls
    assert [bool(part.any()) for part in output.grad.chunk(3)] == [index == place for index in range(3)]
    assert all(p.grad is None for p in module.teacher.network.parameters())


class Ends(Draws):
    """The smallest and the largest time."""

    def uniform(self, like):
        """0 and 1 in turn."""
        return torch.arange(len(like)).to(like) % 2


def test_steps_end_with_the_flow():
    module = tunable(solver="ralston").double()
    seen = {"student": [], "teacher": []}
    for name, network in (("student", module.student.network), ("teacher", module.teacher.network)):
        network.unet.register_forward_pre_hook(lambda _, args, name=name: seen[name].extend((args[1] / 999).tolist()))
    module.draws = Ends()
    module.losses(tiny.batch(dtype=torch.float64))
    assert seen["student"] == pytest.approx([0.01, 0.99, 0.06, 1.0, 0.0, 0.0], rel=1e-12)
    later = [0.01 + 2 / 3 * 0.05, 0.99 + 2 / 3 * 0.01]
    assert seen["teacher"] == pytest.approx([0.01, 0.99, 0.0, 0.0, *later], rel=1e-12)


def test_only_the_student_is_kept_and_trained():
    module = tunable()
    own = {f"student.network.unet.{name}" for name, _ in module.student.network.unet.named_parameters()}
    assert module.trimmed_state().keys() == own
    assert {name for name, p in module.named_parameters() if p.requires_grad} == own
    assert ConditionalFlow(tiny.multi_step_flow()).trimmed_state().keys() == own


def test_dropout_of_the_teacher_s_training_is_off():
    module, batch = tunable(), tiny.batch()
    for block in module.student.network.unet.down_blocks:
        block.resnets[0].dropout.p = 0.5
    noisy = losses(module, batch)
    module = tunable(module.student.network)
    assert losses(module, batch) != noisy
    assert losses(module, batch) == losses(module, batch)


def test_distillation_needs_no_ground_truth():
    batch = tiny.batch()
    module = tunable()
    assert losses(module, batch._replace(gt=None)) == losses(module, batch)
    with pytest.raises(ValueError, match=r"Expected batches with ground truth .*found none"):
        ConditionalFlow(tiny.multi_step_flow()).losses(batch._replace(gt=None))


@pytest.mark.parametrize("make", [lambda **o: ConditionalFlow(tiny.multi_step_flow(), **o), tunable])
def test_crops_are_turned(make):
    turning, plain, batch = make(symmetries=True), make(), tiny.batch()
    turning.draws, plain.draws = Draws(5), Draws(5)
    found = turning.losses(batch)
    lq, gt = random_symmetry([batch.lq, batch.gt], plain.draws.generator)  # what the other has drawn first
    assert not torch.equal(lq, batch.lq)
    assert found == plain.losses(type(batch)(lq, gt, batch.key))


def test_a_slider_is_validated_beside_its_teacher():
    module, batch = tunable(teacher=tiny.flow_network(seed=7, steps=3)), tiny.batch()
    assert module.controllable
    assert torch.equal(module.restore(batch.lq), module.student.sweep(batch.lq, [0.0])[0])
    swept = module.sweep(batch.lq, [0.0, 0.5, 1.0], batch.key)
    assert torch.equal(swept[0], module.restore(batch.lq))
    assert not torch.allclose(swept[0], swept[2])
    references = module.references(batch)
    assert list(references) == ["flow 3"]
    assert torch.equal(references["flow 3"], module.teacher.network.restore(batch.lq))
    flow = ConditionalFlow(tiny.multi_step_flow())
    assert torch.equal(flow.restore(batch.lq), flow.student.network.restore(batch.lq))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConditionalFlow(tiny.multi_step_flow()),
        lambda: tunable(tiny.flow_network(residual_std=0.25), tiny.flow_network(seed=7, residual_std=0.25), dt=0.2),
    ],
)
def test_a_few_steps_lower_the_loss(make):
    module, batch, history = make(), tiny.batch(4), []
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(25):
        loss = sum(losses(module, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": tiny.flow_network(scale=2)}, "Expected a teacher with the student's scale 4, found 2"),
        ({"teacher": tiny.flow_network(sigma=0.3)}, "Expected a teacher with the student's sigma 0.5, found 0.3"),
        ({"dt": 0.0}, "0 < dt < 1, found t_min 0.01, t_max 0.99 and dt 0.0"),
        ({"t_max": 1.0}, "t_max < 1 .*found .* t_max 1.0"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_min < t_max"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tunable(**options)
