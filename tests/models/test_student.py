"""The one-step student."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.networks import LoRA
from ctsr_lightning.prompts import FixedPrompt
from helpers import tiny


def alpha_bar(t):
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t]


@pytest.mark.parametrize("timestep", [999, 500])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_latent_is_the_one_step_closed_form(timestep, prediction):
    student = tiny.student(timestep=timestep, prediction=prediction).double()
    lq = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    image = 2 * F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1) - 1
    start = student.codec.encode(image).detach()
    output = student.unet(start, timestep, None).sample.detach().numpy()
    a, z = alpha_bar(timestep), start.numpy()
    expected = {
        "epsilon": (z - np.sqrt(1 - a) * output) / np.sqrt(a),
        "sample": output,
        "v_prediction": np.sqrt(a) * z - np.sqrt(1 - a) * output,
    }[prediction]
    np.testing.assert_allclose(student.latent(lq).detach().numpy(), expected, rtol=1e-9, atol=1e-11)
    restored = (student.codec.decode(torch.from_numpy(expected)) + 1) / 2
    torch.testing.assert_close(student.restore(lq), restored.clamp(0, 1), rtol=1e-8, atol=1e-10)


def test_alpha_bar_of_the_oracle_is_the_published_one():
    assert alpha_bar(999) == pytest.approx(0.0046601, abs=5e-8)


def test_closed_form_stays_in_float32_under_autocast():
    student, lq = tiny.student(timestep=999), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        latent = student.latent(lq)
        noise = student.predict_noise(latent, torch.tensor([3]), None)
    assert latent.dtype == torch.float32
    assert noise.dtype == torch.float32


def tf32(tensor):
    """Rounded to the ten bits that tensor cores multiply in TF32."""
    bits = tensor.detach().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def rounded_pass(student, lq):
    """ẑ with the input and weights of every layer that multiplies rounded to TF32."""
    layers = [m for m in student.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        layer.weight.data = tf32(layer.weight)
        layer.register_forward_pre_hook(lambda _, inputs: (tf32(inputs[0]), *inputs[1:]))
    return student.latent(lq)


@torch.no_grad()
def test_the_one_step_keeps_its_accuracy_in_every_precision():
    """Of ẑ's size at t = 999, where rounding of ε is amplified 14.6 times."""
    lq = torch.rand(2, 3, 16, 16)
    exact = tiny.adapted_student(timestep=999).double().latent(lq.double())

    def error(found):
        assert found.dtype == torch.float32
        return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()

    student = tiny.adapted_student(timestep=999)
    with torch.autocast("cpu", torch.bfloat16):
        assert error(student.latent(lq)) < 1e-4
    with torch.autocast("cpu", torch.float16):
        half = error(student.latent(lq))
    assert 1e-5 < half < 0.03
    assert 1e-5 < error(rounded_pass(tiny.adapted_student(timestep=999), lq)) < 0.03
    # Where nothing is amplified, bfloat16 is bfloat16.
    early = tiny.adapted_student(timestep=250)
    full = early.latent(lq)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, start = early.latent(lq), early.start(lq)
    assert not torch.equal(coarse, full)
    assert start.dtype == coarse.dtype == torch.float32


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_output_is_scale_times_the_input(scale):
    side = 32 // scale
    assert tiny.student(scale=scale).restore(torch.rand(2, 3, side, 2 * side)).shape == (2, 3, 32, 64)


def test_restored_images_are_clipped_and_decoded_ones_are_not():
    student = tiny.student()
    assert student.decode(50 * torch.randn(1, 4, 8, 8)).abs().max() > 2
    restored = tiny.student(timestep=999).restore(torch.rand(1, 3, 8, 8))
    assert 0.0 <= restored.min() <= restored.max() <= 1.0


def test_result_hardly_depends_on_the_batch():
    student, lq = tiny.student().double(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(student.restore(lq)[1:2], student.restore(lq[1:2]), rtol=1e-10, atol=1e-10)


def test_same_input_gives_the_same_bits():
    student, lq = tiny.adapted_student(), torch.rand(2, 3, 8, 8)
    torch.manual_seed(1)
    first = student.restore(lq)
    torch.manual_seed(2)
    assert torch.equal(student.restore(lq), first)


def test_sampled_latent_follows_the_seed():
    student, lq = tiny.adapted_student(sample_latent=True), torch.rand(1, 3, 8, 8)
    torch.manual_seed(1)
    first = student.latent(lq)
    assert not torch.equal(student.latent(lq), first)
    torch.manual_seed(1)
    assert torch.equal(student.latent(lq), first)


def test_prompt_reaches_the_unet():
    student, lq = tiny.adapted_student(), torch.rand(2, 3, 8, 8)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 5])
    prompt = student.prompt(lq)
    assert not torch.allclose(student.predict_noise(noisy, t, prompt), student.predict_noise(noisy, t, -prompt))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale >= 1"),
        ({"timestep": 1000}, "timestep < 1000"),
        ({"timestep": -1}, "0 <= timestep"),
        ({"codec": tiny.NanoCodec(5, 8)}, "the 5 channels of the codec's latents, found 4"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.student(**options)


def test_multiple_counts_codec_and_unet():
    assert tiny.student().multiple == 8  # f = 4, one halving in the UNet


def test_fresh_adapters_are_the_base():
    lq = torch.rand(2, 3, 8, 8)
    options = {"prompt": tiny.TinyPrompt()}
    base = OneStepStudent(tiny.prompted_unet().requires_grad_(False), KLCodec(tiny.autoencoder()), **options)
    fresh = OneStepStudent(
        tiny.prompted_unet(), KLCodec(tiny.autoencoder()), lora=LoRA(), encoder_lora=LoRA(), **options
    )
    assert torch.equal(fresh.latent(lq), base.latent(lq))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_reach_all_that_is_trainable_and_nothing_else(gradient_checkpointing):
    student = tiny.adapted_student(gradient_checkpointing=gradient_checkpointing).train()
    clean = student.latent(torch.rand(2, 3, 8, 8))
    student.encode(torch.rand(2, 3, 32, 32))  # switches adapters off and on between forward and backward
    student.decode(clean).square().mean().backward()
    reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trainable = {name for name, p in student.named_parameters() if p.requires_grad}
    assert reached == trainable
    assert any(name.startswith("codec.autoencoder.encoder") for name in trainable)
    assert all("lora_" in name or "unet.conv_in.base_layer" in name for name in trainable)


def test_checkpointed_gradients_are_the_same():
    gradients = []
    for checkpointing in (False, True):
        student = tiny.adapted_student(gradient_checkpointing=checkpointing).train()
        student.decode(student.latent(torch.full((1, 3, 8, 8), 0.4))).square().mean().backward()
        gradients.append([p.grad for p in student.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_every_weight_of_a_student_without_adapters_is_trained_but_its_codec():
    trainable = {name for name, p in tiny.student().named_parameters() if p.requires_grad}
    assert trainable == {f"unet.{name}" for name, _ in tiny.unet().named_parameters()}


def test_ground_truth_is_encoded_without_adapters():
    student, gt = tiny.adapted_student(), torch.rand(2, 3, 32, 32)
    base = KLCodec(tiny.autoencoder().requires_grad_(False)).encode(2 * gt - 1)
    assert torch.equal(student.encode(gt), base)
    assert not torch.allclose(student.codec.encode(2 * gt - 1), base)
    assert not student.encode(gt).requires_grad


def test_trained_weights_make_the_same_student(tmp_path):
    from safetensors.torch import save_file

    trained, lq = tiny.adapted_student(seed=3), torch.rand(1, 3, 8, 8)
    state = {f"student.{n}": p.detach().contiguous() for n, p in trained.named_parameters() if p.requires_grad}
    save_file(state, tmp_path / "weights.safetensors")
    again = tiny.adapted_student(seed=4, weights=None)
    assert not torch.equal(again.restore(lq), trained.restore(lq))
    built = OneStepStudent(
        tiny.prompted_unet(),
        KLCodec(tiny.autoencoder()),
        lora=LoRA(),
        encoder_lora=LoRA(),
        prompt=tiny.TinyPrompt(),
        weights=tmp_path / "weights.safetensors",
    )
    assert torch.equal(built.restore(lq), trained.restore(lq))


def test_fixed_prompt_is_read_and_repeated(tmp_path):
    from safetensors.torch import save_file

    embedding = torch.randn(2, 6)
    save_file({"embedding": embedding}, tmp_path / "prompt.safetensors")
    prompt = FixedPrompt(tmp_path / "prompt.safetensors")
    assert torch.equal(prompt(torch.zeros(3, 3, 8, 8)), embedding.expand(3, 2, 6))
    assert not prompt.state_dict()


def test_file_without_embedding_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"tokens": torch.zeros(2)}, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="'embedding' of shape"):
        FixedPrompt(tmp_path / "prompt.safetensors")
