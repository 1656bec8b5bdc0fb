"""Stage 1: Equations 1 to 4 and where their gradients point."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.losses import reconstruction
from ctsr_lightning.modules import CTSRStage1
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny, tiny_resshift

TERMS = ["rec/l2", "rec/lpips", "fidelity/align", "fidelity/prior", "realness/align", "realness/prior"]
WEIGHTS = {
    "lambda_l2": 1.3, "lambda_lpips": 0.7, "lambda_fidelity": 2.1, "lambda_realness": 0.9, "gamma_time": 4.0,
}  # fmt: skip
GRADIENTS = ["paper", "score"]


def stage_one(**options) -> CTSRStage1:
    """Stage 1 whose student differs from its realness teacher."""
    options = {
        "student": tiny.student(seed=2),
        "fidelity": tiny.fidelity_teacher(),
        "realness": tiny.realness_teacher(),
        **tiny.nested(options),
    }
    return CTSRStage1(**options)


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def drawn(batch_size, seed=0):
    """Timesteps and noise that a step with this seed draws."""
    generator = torch.Generator().manual_seed(seed)
    timestep = torch.randint(20, 980, (batch_size,), generator=generator)
    return timestep, torch.randn(batch_size, 4, 8, 8, generator=generator).double()


def alpha_bars():
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def by_hand(module, batch):
    """Equations 1 to 4 in NumPy around bare calls of the networks."""
    a = alpha_bars()
    student, f, r = module.student, module.teachers["fidelity"], module.teachers["realness"]
    up = 2 * F.interpolate(batch.lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1) - 1
    z_l = student.codec.encode(up)
    eps = student.unet(z_l, 500, None).sample
    z_s = ((z_l - math.sqrt(1 - a[500]) * eps) / math.sqrt(a[500])).detach()
    z = student.codec.encode(2 * batch.gt - 1).detach()
    image = student.codec.decode(z_s).detach().numpy()
    gt = 2 * batch.gt.numpy() - 1
    t, noise = drawn(len(batch.lq))
    at = torch.from_numpy(a[t.numpy()]).view(-1, 1, 1, 1)
    zt_s, zt = (at.sqrt() * x + (1 - at).sqrt() * noise for x in (z_s, z))

    def realness(x, _):
        noise = r.frozen.network.unet(x, t, None).sample.detach().numpy()
        return noise, noise

    def fidelity(x, clean):
        """ε_T in the student's process, where ε_S is, and in ResShift's own."""
        chain, w_y = f.frozen.network.schedule, f.frozen.network.codec.encode(up)
        log_snr = np.log((1 - chain.etas.numpy()) ** 2 / (4 * chain.etas.numpy()))
        tau = np.abs(log_snr[None] - np.log(a / (1 - a))[t.numpy()][:, None]).argmin(axis=1)
        eta = chain.etas[tau].view(-1, 1, 1, 1)
        w = clean + eta * (w_y - clean) + 2 * eta.sqrt() * noise
        shown = torch.cat([w / (1 + 4 * eta).sqrt(), w_y], dim=1)
        guess = f.frozen.network.unet(shown, 250.0 * torch.from_numpy(tau), None).sample
        own = (w - (1 - eta) * guess - eta * w_y) / (2 * eta.sqrt())
        return ((x - at.sqrt() * guess) / (1 - at).sqrt()).detach().numpy(), own.detach().numpy()

    own = student.unet(zt_s, t, None).sample.detach().numpy()
    w = WEIGHTS
    square = {
        "rec/l2": w["lambda_l2"] * np.mean((image - gt) ** 2),
        "rec/lpips": w["lambda_lpips"] * np.mean(((image - gt) / 2) ** 4),
    }
    for name, score, weight in (
        ("fidelity", fidelity, w["lambda_fidelity"]),
        ("realness", realness, w["lambda_realness"]),
    ):
        (aligned, at_student), (_, at_gt) = score(zt_s, z_s), score(zt, z)
        square[f"{name}/align"] = weight * np.mean((aligned - own) ** 2)
        square[f"{name}/prior"] = weight * w["gamma_time"] * np.mean((at_student - at_gt) ** 2)
    return square


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_term_is_the_papers(gradient):
    module, batch = stage_one(gradient=gradient, **WEIGHTS).double(), tiny.batch(3, dtype=torch.float64)
    found, expected = losses(module, batch), by_hand(module, batch)
    assert list(found) == TERMS
    for name in TERMS:
        assert found[name].item() == pytest.approx(expected[name], rel=1e-8), name
        assert found[name].item() > 0


def test_terms_against_patterns_are_left_out_unless_asked_for():
    module, batch = stage_one(lambda_grid=3.0, lambda_lattice=5.0).double(), tiny.batch(3, 64, dtype=torch.float64)
    found = losses(module, batch)
    assert set(found) == {*TERMS, "rec/grid", "rec/lattice"}
    restored = module.student.decode(module.student.latent(batch.lq))
    lattice = reconstruction.lattice(restored, batch.gt, 8).item()
    assert found["rec/lattice"].item() == pytest.approx(5.0 * lattice, rel=1e-9)
    assert found["rec/grid"].item() == pytest.approx(3.0 * reconstruction.grid(restored, batch.gt, 4).item(), rel=1e-9)


def test_random_views_change_the_perceptual_term_alone():
    batch = tiny.batch(3, dtype=torch.float64)
    plain, seen = (losses(stage_one(random_views=views).double(), batch)["rec/lpips"] for views in (False, True))
    assert seen.item() != pytest.approx(plain.item(), rel=1e-6)
    with_views = stage_one(random_views=True).double()
    assert losses(with_views, batch)["rec/lpips"].item() == seen.item()  # the same seed, the same view


@pytest.mark.parametrize("without", [["fidelity"], ["realness"], ["fidelity", "realness"]], ids="+".join)
def test_a_teacher_without_weight_is_not_run(without, monkeypatch):
    module, batch = stage_one(**{f"lambda_{name}": 0.0 for name in without}), tiny.batch()

    def refuse(*args, **options):
        raise AssertionError("asked")

    for name in without:
        for method in ("condition", "targets"):
            monkeypatch.setattr(module.teachers[name], method, refuse)
    terms = losses(module, batch)
    assert terms.keys() == {term for term in TERMS if term.split("/")[0] not in without}
    everything = losses(stage_one(), batch)
    for name in ("rec/l2", "rec/lpips"):
        assert terms[name].item() == pytest.approx(everything[name].item(), rel=1e-6)


def test_default_weights_are_the_papers():
    module = stage_one()
    assert (module.reconstruction.lambda_l2, module.reconstruction.lambda_lpips, module.gamma_time) == (1.0, 2.0, 5.5)
    assert module.weights == {"fidelity": 2.0, "realness": 1.0}


@pytest.mark.parametrize(
    ("option", "terms"),
    [
        ("lambda_l2", ["rec/l2"]),
        ("lambda_lpips", ["rec/lpips"]),
        ("lambda_fidelity", ["fidelity/align", "fidelity/prior"]),
        ("lambda_realness", ["realness/align", "realness/prior"]),
        ("gamma_time", ["fidelity/prior", "realness/prior"]),
    ],
)
def test_each_weight_scales_its_own_terms(option, terms):
    batch = tiny.batch(dtype=torch.float64)
    one, three = (losses(stage_one(**{option: value}).double(), batch) for value in (1.0, 3.0))
    for name in TERMS:
        assert (three[name] / one[name]).item() == pytest.approx(3.0 if name in terms else 1.0, rel=1e-10), name


def test_perceptual_term_says_what_it_is():
    module = stage_one(reconstruction=tiny.reconstruction("quality_distance"))
    assert list(losses(module, tiny.batch()))[1] == "rec/quality_distance"


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    # On the CPU torch multiplies sequences by trainable and by frozen weights in different orders.
    ("make", "rounding"),
    [(tiny.student, 0.0), (tiny.adapted_student, 1e-12)],
)
def test_realness_alignment_is_zero_where_training_starts(make, rounding, gradient):
    module = stage_one(
        student=make(), realness=OneStepTeacher(make()), fidelity=tiny.LinearTeacher(), gradient=gradient
    ).train()
    found = losses(module, tiny.batch())
    assert found["realness/align"].item() <= rounding
    assert found["realness/prior"].item() > 0.0


def test_terms_depend_on_the_drawn_noise():
    module, batch = stage_one(), tiny.batch()
    first, again, other = (losses(module, batch, seed) for seed in (1, 1, 2))
    for name in TERMS:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], other[name]) is name.startswith("rec/")


def test_student_and_ground_truth_share_noise_and_timestep():
    module = stage_one(fidelity=tiny.LinearTeacher())
    seen = []
    teacher = module.teachers["fidelity"]
    targets = teacher.targets
    teacher.targets = lambda student, gt, *rest: (seen.extend((student, gt)), targets(student, gt, *rest))[1]
    losses(module, tiny.batch())
    assert torch.equal(seen[0].noise, seen[1].noise)
    assert torch.equal(seen[0].timestep, seen[1].timestep)


@pytest.mark.slow
def test_timesteps_are_those_of_score_distillation():
    module, seen = stage_one(), []
    predict = module.student.predict_noise
    module.student.predict_noise = lambda z, t, c: (seen.append(t), predict(z, t, c))[1]
    for seed in range(150):
        losses(module, tiny.batch(1, 32), seed)
    drawn_timesteps = torch.cat(seen)
    assert drawn_timesteps.min() >= 20
    assert drawn_timesteps.max() <= 979
    assert drawn_timesteps.unique().numel() > 100


def direction(module, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator).double() for p in module.student.parameters() if p.requires_grad]


@pytest.mark.parametrize("term", TERMS)
def test_paper_gradient_is_the_slope_of_each_term(term):
    module, batch = stage_one().double(), tiny.batch(dtype=torch.float64)
    parameters = [p for p in module.student.parameters() if p.requires_grad]
    along = direction(module)
    gradients = torch.autograd.grad(losses(module, batch)[term], parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, along, strict=True) if g is not None).item()
    values, step = [], 2e-6  # the direction is long: of larger steps the third derivative shows
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p.add_(sign * step * d)
            values.append(losses(module, batch)[term].item())
            for p, d in zip(parameters, along, strict=True):
                p.sub_(sign * step * d)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("name", ["fidelity", "realness"])
def test_score_gradient_takes_the_identity_for_the_teachers_jacobian(name):
    module, batch = stage_one(gradient="score", **WEIGHTS).double(), tiny.batch(dtype=torch.float64)
    student, teacher = module.student, module.teachers[name]
    parameters = [p for p in student.parameters() if p.requires_grad]
    weight = WEIGHTS["lambda_fidelity" if name == "fidelity" else "lambda_realness"]
    t, noise = drawn(2)
    from ctsr_lightning.diffusion.noising import add_noise

    z_s = student.latent(batch.lq)
    noisy_s = add_noise(student.schedule, z_s, noise, t, student.decode(z_s))
    noisy = add_noise(student.schedule, student.encode(batch.gt), noise, t, batch.gt)
    own = student.predict_noise(noisy_s.latent.detach(), t, None)
    with torch.no_grad():
        condition = teacher.condition(batch.lq)
        found = teacher.targets(noisy_s, noisy, condition, "score", torch.zeros_like)
        gap, drift = 2 * weight / own.numel() * (found.align - own), found.prior - found.prior_gt
        drift = 2 * weight * WEIGHTS["gamma_time"] / own.numel() * drift
    # d‖ε_T - ε_S‖² = 2 (ε_T - ε_S)·(dz_t - ∂ε_S/∂θ dθ) and d‖ε_T - ε_T(z)‖² = 2 (ε_T - ε_T(z))·dz_t
    formula = {
        f"{name}/align": torch.autograd.grad(
            [noisy_s.latent, own], parameters, [gap, -gap], retain_graph=True, allow_unused=True
        ),
        f"{name}/prior": torch.autograd.grad(noisy_s.latent, parameters, drift, retain_graph=True, allow_unused=True),
    }
    for term, expected in formula.items():
        found = torch.autograd.grad(losses(module, batch)[term], parameters, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in found)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)


def realness_of(name):
    """A teacher of every kind that answers in noise; the bridge's images are windows of its denoiser."""
    return {
        "residual shift": tiny.fidelity_teacher,
        "one step": tiny.realness_teacher,
        "prior": lambda: OneStepTeacher(tiny.student(), score=tiny.unet(seed=7)),
        "bridge": tiny_resshift.bridged_teacher,
    }[name]()


@pytest.mark.parametrize("kind", ["residual shift", "one step", "prior", "bridge"])
def test_score_align_is_score_distillation(kind):
    module = stage_one(fidelity=realness_of(kind), gradient="score", **WEIGHTS).double()
    batch, student = tiny.batch(dtype=torch.float64), module.student
    seen, answers = [], []
    predict, targets = student.predict_noise, module.teachers["fidelity"].targets
    student.predict_noise = lambda z, t, c: (answers.append(predict(z, t, c)), answers[-1])[1]
    module.teachers["fidelity"].targets = lambda s, *rest: (seen.append((s, targets(s, *rest))), seen[-1][1])[1]
    term = losses(module, batch)["fidelity/align"]
    (noisy, found), (own,) = seen[0], answers
    weight = 2 * WEIGHTS["lambda_fidelity"] / own.numel()
    difference = (found.align - own).detach()
    assert difference.abs().max() > 1e-3
    latent, prediction = torch.autograd.grad(term, (noisy.latent, own), retain_graph=True)
    torch.testing.assert_close(latent, weight * difference, rtol=1e-12, atol=0)
    torch.testing.assert_close(prediction, -weight * difference, rtol=1e-12, atol=0)
    # and there is no other way: not through the image, not from ε_S to z_t
    assert torch.autograd.grad(own.sum(), noisy.latent, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(term, noisy.image, retain_graph=True, allow_unused=True) == (None,)
    parameters = [p for p in student.unet.parameters() if p.requires_grad]
    ends = [noisy.latent, own], [weight * difference, -weight * difference]
    expected = torch.autograd.grad(*ends[:1], parameters, ends[1], retain_graph=True)
    for mine, theirs in zip(torch.autograd.grad(term, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_only_the_papers_alignment_follows_the_latent_through_the_student(gradient):
    module = stage_one(gradient=gradient).double()
    shown, predict = [], module.student.predict_noise
    module.student.predict_noise = lambda z, t, c: (shown.append(z), predict(z, t, c))[1]
    losses(module, tiny.batch(dtype=torch.float64))
    assert shown[0].requires_grad is (gradient == "paper")


def latent_gradients(gradient, slope=0.7):
    """∂L/∂ẑ of every term with a linear fidelity teacher, ẑ and z_GT."""
    module = stage_one(fidelity=tiny.LinearTeacher(slope), gradient=gradient, **WEIGHTS).double()
    batch = tiny.batch(dtype=torch.float64)
    latent = module.student.latent(batch.lq).detach().requires_grad_()
    module.student.latent = lambda lq, keys: latent
    found = losses(module, batch)
    gradients = {name: torch.autograd.grad(term, latent, retain_graph=True)[0] for name, term in found.items()}
    return gradients, latent.detach(), module.student.encode(batch.gt)


@pytest.mark.parametrize(("gradient", "jacobian"), [("paper", 0.7), ("score", 1.0)])
def test_prior_term_moves_the_latent_straight_to_the_ground_truth(gradient, jacobian):
    gradients, latent, gt = latent_gradients(gradient)
    timestep, _ = drawn(2)
    alpha_bar = torch.from_numpy(alpha_bars()[timestep.numpy()]).view(-1, 1, 1, 1)
    weight = 2 * WEIGHTS["lambda_fidelity"] * WEIGHTS["gamma_time"] * 0.7 * jacobian * alpha_bar / latent.numel()
    torch.testing.assert_close(-gradients["fidelity/prior"], weight * (gt - latent), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_reconstruction_descends_in_the_image(gradient):
    gradients, latent, _ = latent_gradients(gradient)
    module, batch = stage_one().double(), tiny.batch(dtype=torch.float64)
    for term, power in (("rec/l2", 2), ("rec/lpips", 4)):
        step = 1e-3 / gradients[term].abs().max()
        ends = (module.student.decode(z) for z in (latent, latent - step * gradients[term]))
        before, after = ((image - batch.gt).pow(power).mean() for image in ends)
        assert after < before


def test_alignment_descends_towards_the_teacher():
    module, batch = stage_one().double(), tiny.batch(dtype=torch.float64)
    parameters = [p for p in module.student.parameters() if p.requires_grad]
    for term in ("fidelity/align", "realness/align"):
        before = losses(module, batch)[term]
        gradients = torch.autograd.grad(before, parameters, allow_unused=True)
        step = 1e-4 / max(g.abs().max() for g in gradients if g is not None)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                if g is not None:
                    p.sub_(step * g)
        assert losses(module, batch)[term] < before


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_only_the_student_is_trained(gradient):
    module = stage_one(
        student=tiny.adapted_student(seed=2), realness=OneStepTeacher(tiny.adapted_student()),
        fidelity=tiny.LinearTeacher(), gradient=gradient,
    )  # fmt: skip
    sum(losses(module, tiny.batch()).values()).backward()
    trainable = {n for n, p in module.named_parameters() if p.requires_grad}
    assert {n for n, p in module.named_parameters() if p.grad is not None} == trainable
    assert all(n.startswith("student.") for n in trainable)
    for teacher in (module.teachers["realness"],):
        assert all(p.grad is None for p in teacher.frozen.network.parameters())


def test_checkpoint_holds_the_students_trainable_weights_alone():
    module = stage_one(student=tiny.adapted_student())
    names = module.trimmed_state().keys()
    assert names == {n for n, _ in module.named_parameters() if "lora_" in n or "unet.conv_in.base_layer" in n}


def test_teachers_of_another_scale_are_refused():
    with pytest.raises(ValueError, match="fidelity teacher with the student's scale 4, found 2"):
        stage_one(fidelity=tiny.LinearTeacher(scale=2))


def test_batch_without_ground_truth_is_refused():
    with pytest.raises(ValueError, match="ground truth"):
        stage_one().losses(tiny.batch()._replace(gt=None))


def test_references_are_both_teachers():
    module, batch = stage_one(), tiny.batch()
    shown = module.references(batch)
    assert list(shown) == ["T_f", "T_r"]
    assert torch.equal(shown["T_r"], tiny.student().restore(batch.lq))
