"""Training of the realness teacher: two networks, one optimizer."""

import copy

import numpy as np
import pytest
import torch

from ctsr_lightning.images import upsample
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.modules import OneStepTraining
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.networks import LoRA
from helpers import tiny


def one_step(**options) -> OneStepTraining:
    return OneStepTraining(
        **{
            "student": tiny.student(seed=2),
            "prior": tiny.unet(seed=5),
            "critic": tiny.unet(seed=6),
            **tiny.nested(options),
        }
    )


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def gradients(module, *terms):
    """Gradients by parameter name of the sum of these terms."""
    found = losses(module, tiny.batch(dtype=next(module.parameters()).dtype))
    module.zero_grad()
    sum(found[term] for term in terms).backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_terms_have_names_and_weights():
    weights = {"lambda_l2": 2.0, "lambda_lpips": 3.0, "lambda_vsd": 5.0, "lambda_critic": 7.0, "lambda_grid": 11.0}
    weights |= {"lambda_lattice": 13.0, "lambda_l1": 17.0}
    plain = dict.fromkeys(weights, 1.0)
    batch = tiny.batch(side=64, dtype=torch.float64)
    weighted, unit = (losses(one_step(**w).double(), batch) for w in (weights, plain))
    assert list(unit) == ["rec/l2", "rec/l1", "rec/lpips", "rec/grid", "rec/lattice", "vsd", "critic/denoise"]
    ratios = [(weighted[name] / unit[name]).item() for name in unit]
    assert ratios == pytest.approx([2.0, 17.0, 3.0, 11.0, 13.0, 5.0, 7.0], rel=1e-10)
    assert list(losses(one_step(), tiny.batch())) == ["rec/l2", "rec/lpips", "vsd", "critic/denoise"]


def test_symmetries_turn_input_and_goal_alike():
    module, batch = one_step(symmetries=True, lambda_vsd=0.0).double(), tiny.batch(dtype=torch.float64)
    plain = one_step(lambda_vsd=0.0).double()
    seen = set()
    for seed in range(12):
        lq, gt = random_symmetry([batch.lq, batch.gt], torch.Generator().manual_seed(seed))
        turned = losses(plain, type(batch)(lq, gt, batch.key))
        assert losses(module, batch, seed)["rec/l2"].item() == pytest.approx(turned["rec/l2"].item(), rel=1e-9)
        seen.add(round(turned["rec/l2"].item(), 12))
    assert len(seen) > 2


def test_vsd_and_critic_may_look_at_part_of_a_batch():
    batch = tiny.batch(3, dtype=torch.float64)
    first = type(batch)(batch.lq[:2], batch.gt[:2], batch.key[:2])
    part, alone, whole = (
        losses(one_step(vsd_samples=n).double(), b) for n, b in ((2, batch), (None, first), (None, batch))
    )
    for term in ("vsd", "critic/denoise"):
        assert part[term].item() == pytest.approx(alone[term].item(), rel=1e-9)
        assert part[term].item() != pytest.approx(whole[term].item(), rel=1e-3)
    assert part["rec/l2"].item() == pytest.approx(whole["rec/l2"].item(), rel=1e-9)
    with pytest.raises(ValueError, match="`vsd_samples` of at least 1"):
        one_step(vsd_samples=0)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_vsd_and_critic_are_the_closed_forms(prediction, guidance):
    if guidance == 1.0:
        module = one_step(student=tiny.student(seed=2, prediction=prediction)).double()
    else:
        student = tiny.adapted_student(prediction=prediction)
        options = {"guidance": guidance, "negative_prompt": tiny.TinyPrompt(-2.0), **prompted()}
        module = one_step(student=student, **options).double()
        tiny.shaken(module.critic)
    batch = tiny.batch(dtype=torch.float64)
    prompt = module.student.prompt(batch.lq)
    negative = None if prompt is None else -2.0 * prompt
    found = losses(module, batch, seed=4)
    draws = torch.Generator().manual_seed(4)
    bars = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    clean = module.student.latent(batch.lq).detach()

    def noised(low, high):
        t = torch.randint(low, high + 1, (2,), generator=draws)
        noise = torch.randn(2, 4, 8, 8, generator=draws).double()
        a = torch.from_numpy(bars[t.numpy()]).view(-1, 1, 1, 1)
        return t, noise, a, a.sqrt() * clean + (1 - a).sqrt() * noise

    t, _, a, noisy = noised(20, 979)
    guesses = {}
    for name, unet in (("prior", module.prior.network), ("critic", module.critic)):
        out = unet(noisy, t, prompt).sample
        if name == "prior" and guidance != 1.0:
            away = unet(noisy, t, negative).sample
            out = away + guidance * (out - away)
        guesses[name] = {
            "epsilon": (noisy - (1 - a).sqrt() * out) / a.sqrt(),
            "sample": out,
            "v_prediction": a.sqrt() * noisy - (1 - a).sqrt() * out,
        }[prediction]
    weight = (clean - guesses["prior"]).abs().mean(dim=(1, 2, 3), keepdim=True)
    step = (guesses["critic"] - guesses["prior"]) / weight
    assert found["vsd"].item() == pytest.approx(step.square().mean().item(), rel=1e-8)
    t, noise, a, noisy = noised(0, 999)
    target = {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}[prediction]
    expected = (module.critic(noisy, t, prompt).sample - target).square().mean().item()
    assert found["critic/denoise"].item() == pytest.approx(expected, rel=1e-8)


def test_students_terms_do_not_reach_the_critic():
    reached = gradients(one_step(), "rec/l2", "rec/lpips", "vsd")
    assert reached
    assert all(name.startswith("student.") for name in reached)


def test_critics_term_does_not_reach_the_student():
    reached = gradients(one_step(), "critic/denoise")
    assert reached.keys() == {f"critic.{n}" for n, _ in tiny.unet().named_parameters()}


def test_vsd_alone_reaches_all_of_the_student():
    assert gradients(one_step(), "vsd").keys() == {f"student.unet.{n}" for n, _ in tiny.unet().named_parameters()}


def test_critic_that_equals_the_prior_gives_no_vsd():
    module = one_step(critic=tiny.unet(seed=5))
    assert losses(module, tiny.batch())["vsd"].item() == pytest.approx(0.0, abs=1e-9)


def test_prior_is_neither_trained_nor_saved():
    module = one_step(critic_lora=LoRA(), student=tiny.adapted_student(), **prompted())
    assert {n.split(".")[0] for n, _ in module.named_parameters()} == {"student", "critic"}
    saved = module.trimmed_state()
    assert all("lora_" in name or "conv_in.base_layer" in name for name in saved)
    assert {name.split(".")[0] for name in saved} == {"student", "critic"}
    critic = {f"critic.{name}" for name, _ in module.critic.named_parameters() if "lora_" in name}
    assert {name for name in saved if name.startswith("critic.")} == critic  # and not its first convolution
    assert module.critic.conv_in.base_layer.weight is not module.student.unet.conv_in.base_layer.weight


def prompted():
    return {"prior": tiny.prompted_unet(5), "critic": tiny.prompted_unet(5)}


def test_full_size_layout_trains_on_prompts():
    module = one_step(critic_lora=LoRA(), student=tiny.adapted_student(), **prompted())
    found = losses(module, tiny.batch())
    # Adapters that have learnt nothing: the critic is the prior.
    assert found["vsd"].item() == pytest.approx(0.0, abs=1e-9)
    sum(found.values()).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_guided_vsd_may_look_at_part_of_a_batch():
    batch = tiny.batch(3, dtype=torch.float64)
    first = type(batch)(batch.lq[:2], batch.gt[:2], batch.key[:2])
    options = {"guidance": 7.5, "negative_prompt": tiny.TinyPrompt(-2.0), "student": tiny.adapted_student()}

    def term(count, images):
        module = one_step(**options, **prompted(), vsd_samples=count).double()
        tiny.shaken(module.critic)
        return losses(module, images)["vsd"].item()

    assert term(2, batch) == pytest.approx(term(None, first), rel=1e-9)
    assert term(1, batch) != pytest.approx(term(None, first), rel=1e-3)


def test_guidance_without_prompts_is_refused_where_there_is_vsd():
    options = {"guidance": 7.5, "negative_prompt": tiny.TinyPrompt()}
    with pytest.raises(ValueError, match=r"Expected a prompt and a negative one for guidance 7\.5"):
        one_step(**options)
    assert "vsd" not in losses(one_step(**options, lambda_vsd=0.0), tiny.batch())


def test_every_image_is_enlarged_by_a_kernel_drawn_for_it():
    modes, batch = ("area", "bilinear", "bicubic"), tiny.batch(4, dtype=torch.float64)
    module, shown = one_step(upsample_modes=modes, lambda_vsd=0.0).double(), []
    encode = module.student.codec.encode
    module.student.codec.encode = lambda image, sample=False: (shown.append(image), encode(image, sample))[1]
    seen = set()
    for seed in range(6):
        shown.clear()
        losses(module, batch, seed)
        drawn = torch.randint(0, 3, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
        for k, index in enumerate(drawn):
            up = torch.nn.functional.interpolate(batch.lq[k : k + 1], scale_factor=4, mode=modes[index])
            torch.testing.assert_close(shown[0][k : k + 1], 2 * up.clamp(0, 1) - 1, rtol=0, atol=1e-12)
        seen |= set(drawn)
    assert seen == {0, 1, 2}
    shown.clear()
    module.restore(batch.lq)  # not in training
    torch.testing.assert_close(shown[0], module.student.upsample(batch.lq), rtol=0, atol=0)


def test_area_is_nearest_and_bicubic_is_torchs_own():
    lq = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    assert torch.equal(upsample(lq, 4, "area"), lq.repeat_interleave(4, -1).repeat_interleave(4, -2))
    inner = upsample(lq, 4, "bicubic")[0, 0, 10, 10]  # a = -0.75 at (10 + .5) / 4 - .5 = 2.125 in both directions
    a, d = -0.75, torch.tensor([1.125, 0.125, 0.875, 1.875], dtype=torch.float64)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    kernel = torch.where(d < 1, near, far)
    assert inner.item() == pytest.approx((kernel @ lq[0, 0, 1:5, 1:5] @ kernel).clamp(0, 1).item(), rel=1e-9)
    assert not torch.allclose(upsample(lq, 4), upsample(lq, 4, "bicubic"), atol=1e-3)


def test_clamped_images_have_no_gradient_beyond_the_range():
    plain, clamped = (one_step(clamp=on, lambda_vsd=0.0).double() for on in (False, True))
    batch, images = tiny.batch(dtype=torch.float64), []
    found = {}
    for module in (plain, clamped):
        latent = module.student.latent(batch.lq).detach()
        image = (3.0 * module.student.decode(latent) - 1.0).detach().requires_grad_()
        module.student.latent = lambda lq, start, keys, latent=latent: latent
        module.student.decode = lambda latent, image=image: image
        found[module.clamp] = losses(module, batch)
        images.append(image)
    beyond = (images[0] < 0) | (images[0] > 1)
    assert 0.1 < beyond.double().mean() < 0.9
    inside = images[0].detach().clamp(0, 1)
    l2 = (2 * inside - 2 * batch.gt).square().mean()
    assert found[True]["rec/l2"].item() == pytest.approx(l2.item(), rel=1e-12)
    assert found[True]["rec/lpips"].item() == pytest.approx(2 * (inside - batch.gt).pow(4).mean().item(), rel=1e-12)
    assert found[False]["rec/l2"].item() > l2.item()
    (gradient,) = torch.autograd.grad(found[True]["rec/l2"], images[1])
    expected = torch.where(beyond, 0.0, 8 * (inside - batch.gt) / inside.numel())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(found[False]["rec/l2"], images[0])
    assert (gradient[beyond].abs() > 0).double().mean() > 0.99


def two_groups(lr):
    return lambda groups: torch.optim.AdamW(groups, lr=lr)


@pytest.mark.parametrize("critic_lr", [None, 5e-3])
def test_one_optimizer_takes_the_steps_of_two(critic_lr):
    module = one_step(optimizer=two_groups(1e-3), critic_lr=critic_lr).double()
    module.reconstruction.perceptual.double()
    reference = copy.deepcopy(module)
    clip, batches = 0.05, [tiny.batch(dtype=torch.float64), tiny.batch(4, dtype=torch.float64)]

    together = module.configure_optimizers()
    for seed, batch in enumerate(batches):
        sum(losses(module, batch, seed).values()).backward()
        module.configure_gradient_clipping(together, clip, "norm")
        together.step()
        together.zero_grad()

    student = [p for p in reference.student.parameters() if p.requires_grad]
    critic = list(reference.critic.parameters())
    apart = [torch.optim.AdamW(student, lr=1e-3), torch.optim.AdamW(critic, lr=critic_lr or 1e-3)]
    for seed, batch in enumerate(batches):
        found = losses(reference, batch, seed)
        (found["rec/l2"] + found["rec/lpips"] + found["vsd"]).backward()
        found["critic/denoise"].backward()
        for optimizer, parameters in zip(apart, (student, critic), strict=True):
            assert torch.nn.utils.clip_grad_norm_(parameters, clip) > clip  # or the test would not see clipping
            optimizer.step()
            optimizer.zero_grad()

    for (name, mine), theirs in zip(module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(("algorithm", "limit"), [("norm", 0.01), ("value", 0.001)])
def test_trainer_clips_every_group_by_itself(algorithm, limit):
    norms, largest = [], []

    class Watched(OneStepTraining):
        def on_before_zero_grad(self, optimizer):
            if optimizer.param_groups[0]["params"][0].grad is None:
                return  # before the first step
            groups = [torch.cat([p.grad.flatten() for p in g["params"]]) for g in optimizer.param_groups]
            norms.append([g.norm().item() for g in groups])
            largest.append([g.abs().max().item() for g in groups])

    module = Watched(
        student=tiny.student(seed=2), prior=tiny.unet(seed=5), critic=tiny.unet(seed=6),
        reconstruction=tiny.reconstruction(), optimizer=two_groups(1e-4),
    )  # fmt: skip
    trainer = tiny.fit(module, max_steps=3, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
    assert trainer.global_step == 3
    watched = norms if algorithm == "norm" else largest
    assert len(watched) == 2
    assert all(value == pytest.approx(limit, rel=1e-3) for step in watched for value in step)


def test_steps_are_counted_once():
    assert tiny.fit(one_step(), max_steps=3).global_step == 3


def test_batch_without_ground_truth_is_refused():
    with pytest.raises(ValueError, match=r"ground truth for OneStepTraining, found none.*`target`"):
        one_step().losses(tiny.batch()._replace(gt=None))


def test_without_vsd_neither_prior_nor_critic_is_there():
    alone, given = one_step(prior=None, critic=None, lambda_vsd=0.0), one_step(lambda_vsd=0.0)
    found = losses(alone, tiny.batch())
    assert list(found) == ["rec/l2", "rec/lpips"]
    whole = losses(one_step(), tiny.batch())
    assert all(torch.equal(found[name], whole[name]) for name in found)
    for module in (alone, given):
        assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"student"}
        assert len(module.parameter_groups()) == 1
    assert tiny.fit(given, max_steps=2).global_step == 2
    for missing in ("prior", "critic"):
        with pytest.raises(
            ValueError, match=r"Expected `prior` and `critic` .*`lambda_vsd` 1\).* set `lambda_vsd` to 0"
        ):
            one_step(**{missing: None})
