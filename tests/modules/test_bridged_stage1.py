"""Stage 1 whose fidelity teacher lives in a latent space of its own."""

import pytest
import torch

from ctsr_lightning.modules import CTSRStage1
from ctsr_lightning.modules.draws import Draws
from helpers import tiny, tiny_resshift

GRADIENTS = ["paper", "score"]
TERMS = ["fidelity/align", "fidelity/prior"]


def stage_one(gradient="score", **options) -> CTSRStage1:
    return CTSRStage1(
        student=options.pop("student", None) or tiny.student(seed=2),
        fidelity=tiny_resshift.bridged_teacher(**options),
        realness=tiny.realness_teacher(),
        reconstruction=tiny.reconstruction(),
        gradient=gradient,
    )


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def parameters(module):
    return [p for p in module.student.parameters() if p.requires_grad]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_both_terms_reach_the_student(gradient):
    module = stage_one(gradient)
    found = losses(module, tiny.batch())
    for term in TERMS:
        assert found[term].item() > 0
        gradients = torch.autograd.grad(found[term], parameters(module), retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(("gradient", "reached"), [("paper", TERMS), ("score", TERMS[1:])])
def test_gradients_come_through_the_students_pixels(gradient, reached):
    module, images = stage_one(gradient), []
    decode = module.student.decode
    module.student.decode = lambda latent: (images.append(decode(latent)), images[-1])[1]
    found = losses(module, tiny.batch())
    (image,) = images
    for term in TERMS:
        (gradient,) = torch.autograd.grad(found[term], image, retain_graph=True, allow_unused=True)
        assert (gradient is not None and bool(gradient.abs().max() > 0)) is (term in reached)


def test_both_gradients_have_the_same_values():
    paper, score = (losses(stage_one(gradient), tiny.batch()) for gradient in GRADIENTS)
    assert all(torch.equal(paper[name], score[name]) for name in paper)


def test_terms_follow_the_steps_draws():
    module, batch = stage_one(), tiny.batch()
    first, again, other = (losses(module, batch, seed) for seed in (1, 1, 2))
    for term in TERMS:
        assert torch.equal(first[term], again[term])
        assert not torch.equal(first[term], other[term])


def test_paper_gradient_is_the_slope_of_the_prior_term():
    module, batch = stage_one("paper").double(), tiny.batch(dtype=torch.float64)
    generator = torch.Generator().manual_seed(9)
    along = [torch.randn(p.shape, generator=generator).double() for p in parameters(module)]

    def term():
        return losses(module, batch)["fidelity/prior"]

    gradients = torch.autograd.grad(term(), parameters(module), allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, along, strict=True) if g is not None).item()
    values, step = [], 1e-5
    with torch.no_grad():
        for move in (step, -2 * step):
            for p, d in zip(parameters(module), along, strict=True):
                p.add_(move * d)
            values.append(term().item())
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_students_restoration_descends_to_the_ground_truth(gradient):
    """With no denoising at all (ŵ the same for both) the prior term is a distance in ResShift's latent space."""
    module, batch = stage_one(gradient).double(), tiny.batch(dtype=torch.float64)
    network = module.teachers["fidelity"].frozen.network
    network.predict_clean = lambda shifted, step, lq: torch.zeros_like(shifted)

    def step_of(size):
        found = losses(module, batch)["fidelity/prior"]
        gradients = torch.autograd.grad(found, parameters(module), allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters(module), gradients, strict=True):
                if g is not None:
                    p.sub_(size * g / max(x.abs().max() for x in gradients if x is not None))

    def distance():
        with torch.no_grad():
            restored, gt = (
                network.encode(x) for x in (module.student.decode(module.student.latent(batch.lq)), batch.gt)
            )
        return (restored - gt).square().mean()

    before = distance()
    for _ in range(3):
        step_of(1e-4)
    assert distance() < before


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"version": "v1", "one_step": True}, {"gradient_checkpointing": True}])
def test_it_trains(options):
    module = stage_one(student=tiny.adapted_student(), **options)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    teacher = module.teachers["fidelity"]
    frozen = [p.detach().clone() for p in teacher.frozen.network.parameters()]
    tiny.fit(module, max_steps=2)
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= {name for name, p in module.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, q) for p, q in zip(teacher.frozen.network.parameters(), frozen, strict=True))
    assert not any("teachers." in name for name in module.trimmed_state())
    assert set(module.references(tiny.batch())) == {"T_f", "T_r"}
