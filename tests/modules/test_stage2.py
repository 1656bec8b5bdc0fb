"""Stage 2: Equation 5."""

import pytest
import torch
from lightning import Callback
from torch.nn import functional as F

from ctsr_lightning.losses import reconstruction
from ctsr_lightning.modules import CTSRStage2
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.modules.lr_schedule import WarmupCosine
from ctsr_lightning.networks import LoRA
from helpers import tiny

SOURCES = ["latent", "reencode"]


def stage_two(*, awake=True, **options) -> CTSRStage2:
    return CTSRStage2(
        **{
            "student": tiny.student(),
            "velocity": tiny.velocity(4, awake=awake),
            "fidelity": tiny.fidelity_teacher(),
            **options,
        }
    )


def ends(module, batch):
    """z_0 and z_1 of the paper, from bare calls of the networks."""
    student = module.student.network
    z_0 = student.latent(batch.lq).detach()
    if module.z0_source == "reencode":
        image = ((student.codec.decode(z_0) + 1) / 2).clamp(0, 1)
        z_0 = student.codec.encode(2 * image - 1)
    return z_0, student.codec.encode(2 * module.fidelity.restore(batch.lq) - 1)


@pytest.mark.parametrize("z0_source", SOURCES)
def test_loss_is_equation_five(z0_source):
    module, batch = stage_two(z0_source=z0_source).double(), tiny.batch(3, dtype=torch.float64)
    module.draws = Draws(6)
    found = module.losses(batch)
    z_0, z_1 = ends(module, batch)
    t = torch.rand(3, generator=torch.Generator().manual_seed(6), dtype=torch.float64).view(-1, 1, 1, 1)
    field = module.velocity
    velocity = field.head(field.unet((1 - t) * z_0 + t * z_1, 999 * t.flatten(), None).sample)
    expected = ((z_1 - z_0) - velocity).detach().numpy()
    assert list(found) == ["velocity/match"]
    assert found["velocity/match"].item() == pytest.approx((expected**2).mean(), rel=1e-9)


def test_grid_term_looks_at_the_end_of_the_path():
    module, batch = stage_two(lambda_grid=3.0).double(), tiny.batch(3, dtype=torch.float64)
    module.draws = Draws(6)
    found = module.losses(batch)
    z_0, z_1 = ends(module, batch)
    t = torch.rand(3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    z_t = z_0 + t.view(-1, 1, 1, 1) * (z_1 - z_0)
    end = z_t + (1 - t).view(-1, 1, 1, 1) * module.velocity(z_t, t, None, z_0)
    image = (module.student.network.codec.decode(end) + 1) / 2
    assert list(found) == ["velocity/match", "rec/grid"]
    assert found["rec/grid"].item() == pytest.approx(3.0 * reconstruction.grid(image, batch.gt, 4).item(), rel=1e-9)
    found["rec/grid"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match=r"ground truth for CTSRStage2, found none\. Set `lambda_grid` to 0"):
        module.losses(batch._replace(gt=None))


def test_the_two_starts_differ():
    batch = tiny.batch()
    latent, reencoded = (stage_two(z0_source=source).tradeoff.start(batch.lq)[0] for source in SOURCES)
    assert not torch.allclose(latent, reencoded)


def test_untrained_loss_is_the_distance_of_the_ends():
    module, batch = stage_two(awake=False).double(), tiny.batch(dtype=torch.float64)
    z_0, z_1 = ends(module, batch)
    assert module.losses(batch)["velocity/match"].item() == pytest.approx(F.mse_loss(z_1, z_0).item(), rel=1e-9)


def test_gradient_is_that_of_the_mean_square():
    module, batch = stage_two().double(), tiny.batch(dtype=torch.float64)
    z_0, z_1 = ends(module, batch)
    answers = []
    module.velocity.register_forward_hook(lambda *args: answers.append(args[2]))
    module.draws = Draws(0)
    (found,) = torch.autograd.grad(module.losses(batch)["velocity/match"], answers[0])
    expected = 2 * (answers[0] - (z_1 - z_0)) / z_0.numel()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"lora": LoRA()}, {"lora": LoRA(), "condition_on_lq": True}])
def test_velocity_is_trained_and_nothing_else(options):
    module = stage_two(velocity=tiny.shaken(tiny.velocity(**options)))
    module.losses(tiny.batch())["velocity/match"].backward()
    trainable = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert all(n.startswith("velocity.") for n in trainable)
    assert all(p.grad is None for p in module.student.network.parameters())


def test_frozen_student_is_in_no_checkpoint():
    module = stage_two(velocity=tiny.velocity(lora=LoRA()))
    names = module.trimmed_state()
    assert names.keys() == {n for n, p in module.named_parameters() if p.requires_grad}
    assert not [n for n in names if not n.startswith("velocity.")]
    assert {n.split(".")[0] for n in module.state_dict()} == {"velocity"}


def test_ground_truth_is_not_needed():
    batch = tiny.batch()
    module = stage_two()
    module.draws = Draws(1)
    without = module.losses(batch._replace(gt=None))["velocity/match"]
    module.draws = Draws(1)
    assert module.losses(batch)["velocity/match"] == without


@pytest.mark.slow
def test_times_are_drawn_from_the_unit_interval():
    module, seen = stage_two(), []
    module.velocity.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    for seed in range(40):
        module.draws = Draws(seed)
        module.losses(tiny.batch(4))
    times = torch.cat(seen)
    assert 0.0 <= times.min() < 0.1
    assert 0.9 < times.max() < 1.0


def test_times_near_zero_are_cubes_of_uniform_ones():
    shown = {}
    for kind in ("uniform", "near_zero"):
        module = stage_two(t_distribution=kind)
        module.velocity.register_forward_pre_hook(lambda module, args, kind=kind: shown.update({kind: args[1]}))
        module.draws = Draws(3)
        module.losses(tiny.batch(4))
    torch.testing.assert_close(shown["near_zero"], shown["uniform"] ** 3)


def adapted_stage_two(**options):
    velocity = tiny.velocity(unet=tiny.prompted_unet(), lora=LoRA(), awake=False)
    return stage_two(student=tiny.adapted_student(), velocity=velocity, **options)


def test_velocity_begins_as_the_student():
    module = adapted_stage_two(velocity_start="student")
    student, field = module.student.network.unet, module.velocity.unet
    latent, words = torch.randn(2, 4, 4, 4), torch.randn(2, 2, 6)
    outputs = [network(latent, torch.tensor([9.0, 700.0]), words).sample for network in (student, field)]
    torch.testing.assert_close(*outputs)  # its own adapter begins at zero, S_1's act
    assert not torch.allclose(
        adapted_stage_two().velocity.unet(latent, torch.tensor([9.0, 700.0]), words).sample, outputs[0]
    )
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in adapted_stage_two().named_parameters() if p.requires_grad}
    assert all(".lora_" not in name or ".velocity." in name for name in trained)


def test_a_student_without_adapters_cannot_be_begun_as():
    with pytest.raises(ValueError, match="start from all weights of the other instead"):
        stage_two(velocity_start="student")


def test_training_at_the_start_alone_is_equation_five_at_zero():
    module, batch = stage_two(t_distribution="zero", lambda_grid=3.0).double(), tiny.batch(3, dtype=torch.float64)
    shown = []
    module.velocity.register_forward_pre_hook(lambda module, args: shown.append(args))
    found = module.losses(batch)
    z_0, z_1 = ends(module, batch)
    (latent, control, *_), velocity = shown[0], module.velocity(z_0, torch.zeros(3), None, z_0)
    assert torch.equal(latent, z_0)
    assert control.tolist() == [0.0] * 3
    expected = ((z_1 - z_0 - velocity) ** 2).mean().item()
    assert found["velocity/match"].item() == pytest.approx(expected, rel=1e-9)
    image = (module.student.network.codec.decode(z_0 + velocity) + 1) / 2
    assert found["rec/grid"].item() == pytest.approx(3.0 * reconstruction.grid(image, batch.gt, 4).item(), rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"lora": LoRA(), "condition_on_lq": True}])
def test_layers_that_start_at_zero_have_their_own_learning_rate(options):
    module = stage_two(velocity=tiny.velocity(**options), head_lr=0.3)
    rest, head = module.parameter_groups()
    assert "lr" not in rest
    assert head["lr"] == 0.3
    named = {id(p): n.removeprefix("velocity.") for n, p in module.named_parameters()}
    assert {named[id(p)].split(".")[0] for p in head["params"]} == {"head", "lq_projection"} - (
        set() if options else {"lq_projection"}
    )
    groups = [id(p) for group in (rest, head) for p in group["params"]]
    assert sorted(groups) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert len(stage_two().parameter_groups()) == 1


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_schedules_scale_both_learning_rates_alike_and_clipping_leaves_them_apart(clip):
    rates, moved = [], []
    module = stage_two(
        awake=False, head_lr=0.03, optimizer=lambda p: torch.optim.SGD(p, lr=0.01),
        scheduler=lambda o: WarmupCosine(o, warmup_steps=1),
    )  # fmt: skip

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

        def on_train_batch_end(self, trainer, module, *_):  # gradients are still there, as they were clipped
            groups = trainer.optimizers[0].param_groups
            moved.append([torch.stack([p.grad.norm() for p in g["params"]]).norm() for g in groups])

    tiny.fit(module, max_steps=4, callbacks=[Watch()], gradient_clip_val=clip)
    assert len({lr for lr, _ in rates}) > 2
    assert [head / lr for lr, head in rates] == pytest.approx([3.0] * 4)
    assert module.velocity.head.weight.abs().max() > 0
    if clip is not None:  # each group by itself
        assert max(max(norms) for norms in moved) == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_learning_rates_that_teach_nothing_are_refused(rate):
    with pytest.raises(ValueError, match="Expected head_lr > 0, or null"):
        stage_two(head_lr=rate)


@pytest.mark.parametrize("awake", [False, True])
def test_restoring_starts_at_stage_one(awake):
    module, lq = stage_two(awake=awake), tiny.batch().lq
    assert torch.equal(module.restore(lq), tiny.student().restore(lq))
    assert torch.equal(module.sweep(lq, [0.0])[0], module.restore(lq))


@pytest.mark.slow
def test_a_few_steps_learn_the_way_to_the_teacher():
    torch.manual_seed(0)
    module, batch = stage_two(awake=False), tiny.batch(4)
    optimizer = torch.optim.Adam(module.velocity.parameters(), lr=3e-3)
    history = []
    for step in range(30):
        module.draws = Draws(step)
        loss = module.losses(batch)["velocity/match"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]
    z_0, z_1 = ends(module, batch)
    velocity = module.tradeoff.shared(batch.lq).chunk(2, dim=1)[1]
    assert F.mse_loss(z_0 + velocity, z_1) < F.mse_loss(z_0, z_1)


def test_teacher_of_another_scale_is_refused():
    with pytest.raises(ValueError, match="fidelity teacher with the student's scale 4, found 2"):
        stage_two(fidelity=tiny.LinearTeacher(scale=2))


def test_references_show_the_teachers_there_are():
    batch = tiny.batch()
    assert list(stage_two().references(batch)) == ["T_f"]
    assert list(stage_two(realness=tiny.realness_teacher()).references(batch)) == ["T_f", "T_r"]


def test_stage_two_is_controllable():
    assert CTSRStage2.controllable
