"""Classifier-free guidance against its formula, for every parametrization."""

import pytest
import torch

from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.diffusion.parametrization import to_noise
from ctsr_lightning.networks.guidance import Guidance
from ctsr_lightning.prompts.base import NoPrompt
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny

NEGATIVE = tiny.TinyPrompt(-2.0)


def shown(size=2):
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(size, 4, 8, 8, generator=generator, dtype=torch.float64)
    return latent, torch.tensor([30, 700])[:size], torch.rand(size, 3, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_guided_noise_is_the_formula_in_one_call(prediction):
    unet, prompt, negative = tiny.prompted_unet().double().eval(), tiny.TinyPrompt(), NEGATIVE
    latent, timestep, lq = shown()
    alpha_bar = NoiseSchedule().alpha_bar(timestep, latent)

    def noise(embedding):
        return to_noise(unet(latent, timestep, embedding).sample, latent, alpha_bar, prediction)

    expected = noise(negative(lq)) + 7.5 * (noise(prompt(lq)) - noise(negative(lq)))
    guidance, calls = Guidance(7.5, negative, prompt), []
    unet.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    output = guidance.predict(unet, latent, timestep, guidance.condition(prompt(lq), lq))
    torch.testing.assert_close(to_noise(output, latent, alpha_bar, prediction), expected, rtol=1e-9, atol=1e-9)
    assert calls == [4]
    assert (expected - noise(prompt(lq))).abs().mean() > 1e-3


def test_without_guidance_there_is_one_prediction_and_no_negative_prompt():
    unet, prompt = tiny.prompted_unet().double().eval(), tiny.TinyPrompt()
    latent, timestep, lq = shown()
    guidance, embedding = Guidance(1.0, NEGATIVE, prompt), prompt(lq)
    assert guidance.negative is None
    assert guidance.condition(embedding, lq) is embedding
    assert torch.equal(guidance.predict(unet, latent, timestep, embedding), unet(latent, timestep, embedding).sample)
    assert Guidance(1.0, None, NoPrompt()).condition(None, lq) is None


def test_guidance_of_a_network_in_half_precision_is_added_up_in_float32():
    unet, prompt = tiny.prompted_unet().eval(), tiny.TinyPrompt()
    latent, timestep, lq = (x.float() if x.is_floating_point() else x for x in shown())
    guidance = Guidance(7.5, NEGATIVE, prompt)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        condition = guidance.condition(prompt(lq), lq)
        negative, positive = unet(latent.repeat(2, 1, 1, 1), timestep.repeat(2), condition).sample.float().chunk(2)
        found = guidance.predict(unet, latent, timestep, condition)
    assert found.dtype == torch.float32
    assert torch.equal(found, negative + 7.5 * (positive - negative))


@pytest.mark.parametrize(
    ("negative", "prompt", "missing"),
    [
        (None, tiny.TinyPrompt(), "found none as `negative_prompt`"),
        (NoPrompt(), tiny.TinyPrompt(), "found none as `negative_prompt`"),
        (tiny.TinyPrompt(), NoPrompt(), "found none as `prompt` of the network"),
        (None, NoPrompt(), "found none as `prompt` of the network and `negative_prompt`"),
    ],
)
def test_guidance_needs_two_prompts(negative, prompt, missing):
    with pytest.raises(ValueError, match=rf"guidance 7\.5, {missing}\. Name it, or set `guidance` to 1"):
        Guidance(7.5, negative, prompt)


@pytest.mark.parametrize("score", ["own", "base"])
def test_a_teachers_score_may_be_guided(score):
    network = tiny.adapted_student().double()
    plain = OneStepTeacher(network, score=score)
    teacher = OneStepTeacher(network, score=score, guidance=3.0, negative_prompt=NEGATIVE)
    latent, timestep, lq = shown()
    noisy = add_noise(NoiseSchedule(), latent, torch.ones_like(latent), timestep, torch.zeros(2, 3, 32, 32).double())
    negative, positive = (plain.predict_noise(noisy, prompt(lq)) for prompt in (NEGATIVE, tiny.TinyPrompt()))
    found = teacher.predict_noise(noisy, teacher.condition(lq))
    torch.testing.assert_close(found, negative + 3.0 * (positive - negative), rtol=1e-9, atol=1e-9)
    targets = teacher.targets(noisy, noisy, teacher.condition(lq), "score", torch.zeros_like)
    assert torch.equal(targets.prior_gt, found)
    assert torch.equal(teacher.restore(lq), plain.restore(lq))


def test_a_score_without_prompt_cannot_be_guided():
    with pytest.raises(ValueError, match=r"a prompt and a negative one for guidance 7\.5"):
        OneStepTeacher(tiny.student(), guidance=7.5, negative_prompt=tiny.TinyPrompt())
