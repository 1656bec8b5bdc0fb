"""The bridge between ResShift's latent space and the student's, against formulas written out by hand."""

import math

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch.nn import functional as F

from ctsr_lightning.codecs import KLCodec, NanoCodec
from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.diffusion.noising import Noisy, add_noise
from ctsr_lightning.teachers import BridgedTeacher, Teacher
from ctsr_lightning.weights.resshift_files import published_name
from helpers import tiny, tiny_resshift

TIMESTEPS = (30, 500, 720, 970)
ALPHA_BARS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
GRADIENTS = ["paper", "score"]


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(like)


def noised(seed=0, timesteps=TIMESTEPS) -> Noisy:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(len(timesteps), 4, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    image = 1.4 * rand(len(timesteps), 3, 32, 32, seed=seed + 10) - 0.2  # a student's image is not clipped
    return add_noise(NoiseSchedule(), clean, noise, torch.tensor(timesteps), image.requires_grad_())


LQ = rand(len(TIMESTEPS), 3, 8, 8, seed=7)


def bridged(**options) -> BridgedTeacher:
    return tiny_resshift.bridged_teacher(**options).double()


def ask(teacher, student, gt, gradient="paper", draw=normal):
    return teacher.targets(student, gt, teacher.condition(LQ), gradient, draw)


def encode_vq(teacher, image):
    return teacher.frozen.network.codec.autoencoder.encode(2 * image - 1).latents


def w_y(teacher):
    return encode_vq(teacher, F.interpolate(LQ, scale_factor=4, mode="bicubic"))


def decode_vq(teacher, latent, shift=None):
    """D_q: the nearest codes, decoded to [-1, 1]. With `shift` the codes are taken to be latent + shift."""
    autoencoder = teacher.frozen.network.codec.autoencoder
    if shift is None:
        codes = autoencoder.quantize.embedding.weight
        rows = latent.permute(0, 2, 3, 1)[..., None, :]
        nearest = codes[(rows - codes).square().sum(dim=-1).argmin(dim=-1)]
        shift = nearest.permute(0, 3, 1, 2) - latent
    return autoencoder.decode(latent + shift, force_not_quantize=True).sample, shift.detach()


def etas(version):
    steps, first = {"v1": (15, 0.02), "v3": (4, 0.1)}[version]
    return (first * (0.99 / first) ** ((np.arange(steps) / (steps - 1)) ** 0.3)) ** 2


def paired(version, timesteps=TIMESTEPS):
    """τ, and η_τ in a shape that multiplies latents."""
    eta = etas(version)
    log_snr, target = np.log((1 - eta) ** 2 / (4 * eta)), ALPHA_BARS[list(timesteps)]
    steps = np.abs(log_snr[None] - np.log(target / (1 - target))[:, None]).argmin(axis=1)
    return steps, torch.from_numpy(eta[steps]).view(-1, 1, 1, 1)


def denoised(teacher, image, version="v3", eps=None):
    """w, w_τ and ŵ of an image."""
    steps, eta = paired(version)
    w = encode_vq(teacher, image)
    eps = normal(w) if eps is None else eps
    shifted = (1 - eta) * w + eta * w_y(teacher) + 2 * eta.sqrt() * eps
    guess = teacher.frozen.network.unet(shifted / (1 + 4 * eta).sqrt(), torch.from_numpy(steps), 2 * LQ - 1)
    return w, shifted, guess


def by_hand(teacher, noisy, version, clip):
    """ε_T of the align term and the noise of the prior term."""
    _, eta = paired(version)
    w, _, guess = denoised(teacher, noisy.image, version)
    weight = (1 - eta) ** 2 / (4 * eta)
    prior = normal(w) + (weight if clip is None else weight.clamp(max=clip)).sqrt() * (w - guess)
    a = torch.from_numpy(ALPHA_BARS[list(TIMESTEPS)]).view(-1, 1, 1, 1)
    before, after = (teacher.codec.network.encode(decode_vq(teacher, x)[0]) for x in (w, guess))
    return (noisy.latent - a.sqrt() * (noisy.clean + after - before)) / (1 - a).sqrt(), prior


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("clip", [1.0, 0.5, None])
@pytest.mark.parametrize("version", ["v1", "v3"])
def test_opinion_is_the_formula(version, clip, gradient):
    teacher, student, gt = bridged(version=version, clip=clip), noised(), noised(1)
    found = ask(teacher, student, gt, gradient)
    align, prior = by_hand(teacher, student, version, clip)
    _, prior_gt = by_hand(teacher, gt, version, clip)
    for mine, theirs in zip(found, (align, prior, prior_gt), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert (prior - prior_gt).abs().mean() > 1e-3


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_unclipped_prior_is_the_noise_that_resshift_implies(version):
    teacher, student = bridged(version=version, clip=None), noised()
    _, eta = paired(version)
    _, shifted, guess = denoised(teacher, student.image, version)
    expected = (shifted - (1 - eta) * guess - eta * w_y(teacher)) / (2 * eta.sqrt())
    torch.testing.assert_close(ask(teacher, student, noised(1)).prior, expected, rtol=1e-9, atol=1e-9)


def test_noise_levels_are_paired_across_the_chain():
    assert paired("v3")[0].tolist() == [0, 1, 2, 2]
    teacher, shown = bridged(), []
    teacher.frozen.network.unet.register_forward_pre_hook(lambda _, args: shown.append(args[1].tolist()))
    ask(teacher, noised(), noised(1))
    assert shown == [[0, 1, 2, 2]] * 2


def test_clipping_changes_the_first_step_of_v3_alone():
    student, gt = noised(), noised(1)
    clipped, whole = (ask(bridged(clip=clip), student, gt) for clip in (5.0, None))
    differs = [not torch.equal(a, b) for a, b in zip(clipped.prior, whole.prior, strict=True)]
    assert differs == [True, False, False, False]
    assert torch.equal(clipped.align, whole.align)  # whose weight stage 1 applies


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_teacher_without_a_correction_gives_the_students_own_latent(gradient):
    teacher, student, gt = bridged(), noised(), noised(1)
    network, shown = teacher.frozen.network, []
    encode = network.encode
    network.encode = lambda image: (shown.append(encode(image)), shown[-1])[1]
    network.predict_clean = lambda shifted, step, lq: shown[-1]  # ŵ = w
    found = ask(teacher, student, gt, gradient)
    a = torch.from_numpy(ALPHA_BARS[list(TIMESTEPS)]).view(-1, 1, 1, 1)
    clean = (student.latent - (1 - a).sqrt() * found.align) / a.sqrt()
    torch.testing.assert_close(clean, student.clean, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.align, student.noise)
    assert torch.equal(found.prior, found.prior_gt)
    if gradient == "paper":  # nor does any gradient say so
        (image,) = torch.autograd.grad(found.align.square().sum(), student.image)
        assert image.abs().max() < 1e-12
    # What E(D_q(ŵ)) in its place would cost: the round trip of two autoencoders, at t = 30 times SNR.
    lost = teacher.codec.network.encode(decode_vq(teacher, shown[-1])[0]) - student.clean
    assert lost.square().mean() > 0.1 * student.clean.square().mean()
    assert (a / (1 - a)).max() > 30


def test_perfect_teacher_answers_with_the_noise_itself():
    teacher, student, gt = bridged(clip=None), noised(), noised(1)
    network, (_, eta) = teacher.frozen.network, paired("v3")
    degraded = w_y(teacher)

    def perfect(shifted, step, lq):
        return (shifted - eta * degraded - 2 * eta.sqrt() * normal(shifted)) / (1 - eta)

    network.predict_clean = perfect
    found = ask(teacher, student, gt)
    torch.testing.assert_close(found.prior, normal(degraded), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.prior_gt, normal(degraded), rtol=0, atol=1e-9)
    exact = encode_vq(teacher, gt.image).detach()
    network.predict_clean = lambda shifted, step, lq: exact
    found = ask(teacher, gt, gt)
    assert torch.equal(found.prior, normal(degraded))
    assert torch.equal(found.prior_gt, normal(degraded))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_noise_is_drawn_once_in_resshifts_space(gradient):
    drawn = []
    ask(bridged(), noised(), noised(1), gradient, lambda like: (drawn.append(like), normal(like))[1])
    assert [(like.shape, like.requires_grad) for like in drawn] == [((4, 3, 8, 8), False)]


def test_students_noise_matters_to_the_align_term_alone():
    teacher, student, gt = bridged(), noised(), noised(1)
    other = add_noise(NoiseSchedule(), student.clean, -student.noise, student.timestep, student.image)
    first, second = (ask(teacher, noisy, gt) for noisy in (student, other))
    assert not torch.equal(first.align, second.align)
    assert torch.equal(first.prior, second.prior)


def slope(function, image, along, step=1e-5):
    with torch.no_grad():
        return (function(image + step * along) - function(image - step * along)).item() / (2 * step)


def test_score_prior_descends_through_the_encoder_alone():
    teacher, student, gt = bridged(), noised(), noised(1)
    found = ask(teacher, student, gt, "score")
    difference = (found.prior - found.prior_gt).detach()
    gradient, latent = torch.autograd.grad(
        F.mse_loss(found.prior, found.prior_gt), (student.image, student.clean), allow_unused=True
    )
    _, eta = paired("v3")
    weight = (1 - eta) / (2 * eta.sqrt())
    cotangent = 2 / difference.numel() * weight * difference
    (expected,) = torch.autograd.grad(encode_vq(teacher, student.image), student.image, cotangent)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-15)
    assert expected.abs().max() > 1e-6
    assert latent is None


def test_score_align_takes_the_identity_like_every_teacher():
    student, own = noised(), rand(4, 4, 8, 8, seed=3)
    found = ask(bridged(), student, noised(1), "score").align
    latent, image = torch.autograd.grad(F.mse_loss(found, own), (student.latent, student.image), allow_unused=True)
    torch.testing.assert_close(latent, 2 / own.numel() * (found - own).detach(), rtol=1e-12, atol=0)
    assert image is None


def test_paper_prior_is_differentiated_through_the_denoiser():
    teacher, student, gt = bridged(), noised(), noised(1)

    def loss(image):
        found = ask(teacher, student._replace(image=image), gt)
        return F.mse_loss(found.prior, found.prior_gt)

    (gradient,) = torch.autograd.grad(loss(student.image), student.image)
    along = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert (gradient * along).sum().item() == pytest.approx(slope(loss, student.image, along), rel=1e-5)
    found = ask(teacher, student, gt, "score")
    past = torch.autograd.grad(F.mse_loss(found.prior, found.prior_gt), student.image)[0]
    assert not torch.allclose(gradient, past, rtol=1e-2, atol=0)


def test_paper_align_is_differentiated_straight_through_the_quantisation():
    # Codes jump, so the slope is that of the same formula with the distances from w and ŵ to their codes held fast.
    teacher, student, own = bridged(), noised(), rand(4, 4, 8, 8, seed=3)
    a = torch.from_numpy(ALPHA_BARS[list(TIMESTEPS)]).view(-1, 1, 1, 1)
    shifts = [decode_vq(teacher, denoised(teacher, student.image)[part])[1] for part in (0, 2)]

    def held(image):
        latents = [denoised(teacher, image)[part] for part in (0, 2)]
        decoded = [decode_vq(teacher, x, shift)[0] for x, shift in zip(latents, shifts, strict=True)]
        before, after = (teacher.codec.network.encode(x) for x in decoded)
        return F.mse_loss(student.noise + (a / (1 - a)).sqrt() * (before - after), own)

    found = ask(teacher, student, noised(1)).align
    image, latent = torch.autograd.grad(F.mse_loss(found, own), (student.image, student.clean), allow_unused=True)
    along = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert (image * along).sum().item() == pytest.approx(slope(held, student.image, along), rel=1e-5)
    assert latent is None  # in (z_t - √ᾱ (ẑ + …)) / √(1-ᾱ) it cancels


def test_score_keeps_no_more_than_the_encoder():
    teacher, student, gt = bridged(), noised(), noised(1)
    kept = {}
    for gradient in GRADIENTS:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            ask(teacher, student, gt, gradient)
        kept[gradient] = sum(sizes)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
        encode_vq(teacher, student.image)
    assert kept["score"] < 1.05 * sum(sizes) < 0.7 * kept["paper"]


@pytest.mark.parametrize(("gradient", "recomputed"), [("paper", (1, 1, 2, 2)), ("score", (1, 0, 0, 0))])
def test_recomputing_saves_memory_and_changes_no_bit(gradient, recomputed):
    def measured(on):
        teacher = bridged(codec=KLCodec(tiny.autoencoder()), gradient_checkpointing=on)
        network, student, calls = teacher.frozen.network, noised(), []
        parts = (
            network.codec.autoencoder.encoder.down_blocks[0],
            network.unet.middle_block,
            network.codec.autoencoder.decoder.up_blocks[0],
            teacher.codec.network.autoencoder.encoder.down_blocks[0],
        )
        for part in parts:
            part.register_forward_pre_hook(lambda module, _: calls.append(module))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            found = ask(teacher, student, noised(1), gradient)
            loss = F.mse_loss(found.prior, found.prior_gt) + found.align.square().mean()
        before = [sum(call is part for call in calls) for part in parts]
        gradients = torch.autograd.grad(loss, student.image if gradient == "paper" else (student.clean, student.image))
        again = [sum(call is part for call in calls) - n for part, n in zip(parts, before, strict=True)]
        return gradients, sum(sizes), tuple(again)

    plain, whole, none = measured(False)
    found, saved, again = measured(True)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, plain, strict=True))
    assert plain[-1].abs().max() > 0
    assert (none, again) == ((0, 0, 0, 0), recomputed)
    assert saved < 0.3 * whole


def test_condition_holds_the_degraded_latent_and_the_image():
    teacher = bridged()
    condition = teacher.condition(LQ)
    torch.testing.assert_close(condition[:, :3], w_y(teacher), rtol=1e-9, atol=1e-9)
    assert torch.equal(condition[:, 3:], LQ)


@pytest.mark.parametrize("size", [(8, 12), (4, 8), (30, 16)])
def test_crops_that_leave_windows_unfilled_are_refused(size):
    with pytest.raises(ValueError, match=rf"multiples of 8.*found {size[0]}x{size[1]}.* multiples of 32 pixels"):
        tiny_resshift.bridged_teacher().condition(torch.rand(1, 3, *size))


def test_sides_fit_both_autoencoders():
    teacher = tiny_resshift.bridged_teacher()
    assert teacher.multiple == 32
    teacher.codec.network.factor = 24
    assert teacher.multiple == 96


def test_any_size_is_restored_from_the_teachers_seed():
    lq, network = torch.rand(1, 3, 7, 10), tiny_resshift.resshift()
    first, second = (BridgedTeacher(network, tiny.nano_codec(), seed=seed).restore(lq) for seed in (0, 1))
    assert first.shape == (1, 3, 28, 40)
    assert torch.equal(first, network.restore(lq, seed=0))
    assert torch.equal(second, network.restore(lq, seed=1))
    assert not torch.equal(first, second)


def test_sinsr_restores_in_one_step():
    teacher, steps = tiny_resshift.bridged_teacher(version="v1", one_step=True), []
    teacher.frozen.network.unet.register_forward_pre_hook(lambda _, args: steps.append(args[1].tolist()))
    teacher.restore(torch.rand(2, 3, 8, 8))
    assert steps == [[14, 14]]


def test_both_networks_follow_the_teacher():
    teacher = tiny_resshift.bridged_teacher().double()
    for network in (teacher.frozen.network, teacher.codec.network):
        assert {p.dtype for p in network.parameters()} == {torch.float64}
        assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_clips_that_leave_nothing_are_refused(clip):
    with pytest.raises(ValueError, match=r"Expected clip > 0, .* set lambda_fidelity"):
        tiny_resshift.bridged_teacher(clip=clip)


def test_students_own_autoencoder_is_refused():
    with pytest.raises(ValueError, match=r"plain autoencoder as codec, found one with adapters"):
        tiny_resshift.bridged_teacher(codec=tiny.adapted_student().codec)


def test_codec_of_another_latent_space_is_refused():
    teacher = bridged(codec=NanoCodec(channels=12, width=8))
    with pytest.raises(ValueError, match=r"\(4, 4, 8, 8\).*found \(4, 12, 8, 8\).*same base autoencoder"):
        ask(teacher, noised(), noised(1))


def test_condition_of_its_own_is_needed():
    with pytest.raises(ValueError, match="needs the result of its own `condition`"):
        bridged().targets(noised(), noised(1), None, "score", normal)


@pytest.mark.parametrize(("load", "options"), [("load_resshift", {"version": "v3"}), ("load_sinsr", {})])
def test_configurations_name_the_published_files(tmp_path, load, options):
    network = tiny_resshift.resshift()
    torch.save(network.unet.state_dict(), tmp_path / "unet.pth")
    state = {published_name(k, 3): v for k, v in network.codec.autoencoder.state_dict().items()}
    state = {k: v[..., None, None] if "attn_1" in k and v.dim() == 2 else v for k, v in state.items()}
    torch.save(state, tmp_path / "vq.pth")
    files = {"unet": str(tmp_path / "unet.pth"), "autoencoder": str(tmp_path / "vq.pth")}
    architecture = {"unet_architecture": tiny_resshift.UNET, "autoencoder_architecture": tiny_resshift.VQ}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=Teacher)
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the old name, before 4.49
    settings = {
        "class_path": "BridgedTeacher",
        "init_args": {
            "network": {"class_path": f"ctsr_lightning.networks.{load}", "init_args": files | options | architecture},
            "codec": {"class_path": "NanoCodec", "init_args": {"channels": 4}},
            "clip": None,
        },
    }
    teacher = instantiate(parser.parse_object({"teacher": settings})).teacher
    assert isinstance(teacher, BridgedTeacher)
    assert (teacher.clip, teacher.frozen.network.one_step) == (None, load == "load_sinsr")
    lq = torch.rand(1, 3, 8, 8)
    assert load == "load_sinsr" or torch.equal(teacher.restore(lq), network.eval().restore(lq))
