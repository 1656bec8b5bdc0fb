"""The published restorers: their chain against a plain float64 loop, their paddings, and their loaders."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.codecs.vq import VQCodec, vq_autoencoder
from ctsr_lightning.diffusion import ResShiftSchedule
from ctsr_lightning.diffusion.sampling import noise_by_content
from ctsr_lightning.images import pad_to_multiple
from ctsr_lightning.networks.published_resshift import (
    PublishedResShift,
    load_resshift,
    load_sinsr,
    load_swin_unet,
    published_schedule,
)
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.weights.resshift_files import published_name
from helpers.reference import SHARED
from helpers.tiny_resshift import UNET, VQ

PARITY = SHARED / "reference" / "parity"


class Formula(nn.Module):
    """A denoiser in one line, which remembers what it was shown."""

    in_channels = out_channels = 3
    multiple = 8

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, x, timesteps, lq):
        self.shown.append((x, timesteps, lq))
        return 0.7 * x + 0.2 * lq * x.flip(1) - 0.01 * timesteps.view(-1, 1, 1, 1).to(x)


class Blocks(LatentCodec):
    """Means of 4x4 pixels, and back by repetition."""

    factor, channels = 4, 3

    def encode(self, image, sample=False):
        return 1.5 * F.avg_pool2d(image, 4)

    def decode(self, latent):
        return F.interpolate(latent / 1.5, scale_factor=4.0)

    def adapted(self):
        return self


def formula(version="v3", **options):
    return PublishedResShift(Formula(), Blocks(), published_schedule(version), **options)


def images(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def real(**options):
    torch.manual_seed(0)
    return PublishedResShift(SwinUNet(**UNET), VQCodec(vq_autoencoder(**VQ)), **options).eval()


@pytest.fixture
def files(tmp_path):
    """Files in the published layout: denoiser and autoencoder."""
    network = real()
    torch.save(network.unet.state_dict(), tmp_path / "unet.pth")
    state = {published_name(k, 3): v for k, v in network.codec.autoencoder.state_dict().items()}
    state = {k: (v[..., None, None] if "attn_1" in k and v.dim() == 2 else v).half() for k, v in state.items()}
    torch.save({"state_dict": state}, tmp_path / "vq.pth")
    return tmp_path / "unet.pth", tmp_path / "vq.pth"


@pytest.mark.reference
@pytest.mark.parametrize(("versions", "name"), [(("v1", "v2"), "v1_15_steps"), (("v3",), "v3_4_steps")])
def test_schedules_are_the_published_ones(versions, name):
    wanted = json.loads((PARITY / "resshift_schedules.json").read_text())[name]
    for version in versions:
        schedule = published_schedule(version)
        assert (schedule.num_steps, schedule.kappa) == (wanted["steps"], wanted["kappa"])
        np.testing.assert_allclose(schedule.sqrt_etas.numpy(), wanted["sqrt_etas"], rtol=0, atol=1e-14)


def test_schedules_without_the_published_file():
    np.testing.assert_allclose(published_schedule("v3").sqrt_etas, [0.1, 0.5201, 0.76138, 0.99], atol=1e-5)
    np.testing.assert_allclose(published_schedule("v1").sqrt_etas[[0, 1, 14]], [0.02, 0.11717, 0.99], atol=1e-5)
    with pytest.raises(ValueError, match="v1, v2, v3, found 'v4'"):
        published_schedule("v4")


@pytest.mark.parametrize("one_step", [False, True])
@pytest.mark.parametrize(("version", "steps", "noise"), [("v1", 15, 0.04), ("v3", 4, 0.2)])
def test_restoring_is_the_published_process(version, steps, noise, one_step):
    network, lq = formula(version, one_step=one_step), images(2, 3, 8, 16)
    found = network.restore(lq, seed=5)

    kappa, first = 2.0, noise / 2.0
    base = np.exp(np.log(0.99 / first) / (steps - 1))
    eta = np.array([(first * base ** ((steps - 1) * (i / (steps - 1)) ** 0.3)) ** 2 for i in range(steps)])
    normal = noise_by_content(lq, 5)
    image = lq.numpy() * 2 - 1
    w_y = network.degraded(lq).numpy()

    def draw():
        return normal(torch.from_numpy(w_y)).numpy()

    def predict(w, i):
        x = w / np.sqrt(1 + kappa**2 * eta[i])
        return 0.7 * x + 0.2 * image * x[:, ::-1] - 0.01 * i

    w = w_y + kappa * np.sqrt(eta[-1]) * draw()
    for i in range(steps - 1, 0, -1):
        if one_step:
            break
        alpha = eta[i] - eta[i - 1]
        mean = eta[i - 1] / eta[i] * w + alpha / eta[i] * predict(w, i)
        w = mean + np.sqrt(kappa**2 * eta[i - 1] * alpha / eta[i]) * draw()
    clean = predict(w, steps - 1 if one_step else 0)
    expected = np.clip(np.repeat(np.repeat(clean / 1.5, 4, 2), 4, 3) * 0.5 + 0.5, 0, 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert ((expected > 0) & (expected < 1)).mean() > 0.05
    assert len(network.unet.shown) == (1 if one_step else steps)


def test_degraded_is_the_latent_of_the_unclipped_bicubic_enlargement():
    lq = images(1, 3, 7, 9).round()  # black and white, so that cubics overshoot
    up = cv2.resize(lq[0].permute(1, 2, 0).numpy() * 2 - 1, (36, 28), interpolation=cv2.INTER_CUBIC)  # a = -0.75
    assert up.max() > 1.05
    expected = Blocks().encode(torch.from_numpy(up).permute(2, 0, 1)[None])
    torch.testing.assert_close(formula().degraded(lq), expected, rtol=0, atol=1e-5)


def test_denoiser_sees_the_scaled_latent_the_raw_step_and_the_signed_image():
    network, shifted, lq = formula("v1"), images(2, 3, 8, 8), images(2, 3, 8, 8)
    network.predict_clean(shifted, torch.tensor([3, 14]), lq)
    x, step, image = network.unet.shown[0]
    sigmas = 2.0 * network.schedule.sqrt_etas[[3, 14]].view(2, 1, 1, 1)
    torch.testing.assert_close(x, shifted / (1 + sigmas**2).sqrt())
    assert step.tolist() == [3, 14]
    torch.testing.assert_close(image, lq * 2 - 1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 14), (3, 16), (5, 1)])
def test_any_size_is_padded_and_cropped(height, width):
    network, lq = formula(), images(2, 3, height, width)
    found = network.restore(lq)
    assert found.shape == (2, 3, 4 * height, 4 * width)
    whole = network.restore(pad_to_multiple(lq, 8))
    assert torch.equal(found, whole[..., : 4 * height, : 4 * width])


def test_noise_depends_on_seed_and_image_and_not_on_the_batch():
    network, lq = real(), torch.rand(2, 3, 8, 8)
    both = network.restore(lq)
    assert torch.equal(both, network.restore(lq, seed=0))
    assert not torch.equal(both, network.restore(lq, seed=1))
    assert not torch.equal(network.restore(lq, seed=None), network.restore(lq, seed=None))
    torch.testing.assert_close(network.restore(lq[1:]), both[1:], rtol=0, atol=1e-4)
    assert 0 <= both.min() < both.max() <= 1
    assert network.multiple == 4 * network.unet.multiple == 32


def test_gradients_flow_through_the_encoder_but_not_through_the_condition():
    network, image = real(), torch.rand(1, 3, 32, 32, requires_grad=True)
    network.encode(image).square().sum().backward()
    assert image.grad.abs().max() > 0
    assert not network.degraded(image[..., :8, :8]).requires_grad
    assert all(p.grad is None for p in network.codec.parameters())
    small = torch.rand(1, 3, 8, 8, requires_grad=True)
    network.decode(network.predict_clean(small, torch.tensor([2]), small.detach())).sum().backward()
    assert small.grad.abs().max() > 0


def test_misfitting_parts_are_refused():
    with pytest.raises(ValueError, match=r"factor is the scale, 2,.* found factor 4"):
        formula(scale=2)
    unet = Formula()
    unet.in_channels = 4
    with pytest.raises(ValueError, match=r"3 channels .* found 4 in and 3 out"):
        PublishedResShift(unet, Blocks(), ResShiftSchedule())


@pytest.mark.parametrize(("version", "steps"), [("v1", 15), ("v2", 15), ("v3", 4)])
def test_resshift_is_loaded(files, version, steps):
    network = load_resshift(*files, version, UNET, VQ)
    wanted = real().unet.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in network.unet.state_dict().items())
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert (network.schedule.num_steps, network.one_step) == (steps, False)
    assert network.restore(torch.rand(1, 3, 5, 9)).shape == (1, 3, 20, 36)


def test_sinsr_is_loaded(files):
    network = load_sinsr(*files, UNET, VQ)
    assert (network.schedule.num_steps, network.one_step) == (15, True)
    calls = []
    network.unet.register_forward_hook(lambda _, shown, __: calls.append(shown[1].tolist()))
    network.restore(torch.rand(2, 3, 8, 8))
    assert calls == [[14, 14]]


def test_names_of_training_wrappers_are_removed(files):
    unet, _ = files
    state = torch.load(unet, weights_only=True)
    torch.save({"state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}}, unet)
    loaded = load_swin_unet(unet, UNET).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_files_in_the_wrong_slot_are_named(files):
    unet, autoencoder = files
    with pytest.raises(ValueError, match=r"weights of a denoiser.*looks like a VQ autoencoder"):
        load_resshift(autoencoder, autoencoder, "v3", UNET, VQ)
    with pytest.raises(ValueError, match=r"weights of a VQ autoencoder.*looks like a denoiser"):
        load_sinsr(unet, unet, UNET, VQ)


def test_weights_of_another_architecture_are_listed(files):
    with pytest.raises(ValueError, match="found others: missing"):
        load_swin_unet(files[0])


def test_truncated_and_missing_files_are_refused(files):
    unet, autoencoder = files
    unet.write_bytes(unet.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"denoiser at '.*unet.pth'.*cut short"):
        load_resshift(unet, autoencoder, "v3", UNET, VQ)
    with pytest.raises(FileNotFoundError, match=r"denoiser at '.*absent.pth'"):
        load_sinsr(unet.with_name("absent.pth"), autoencoder, UNET, VQ)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"input_blocks.0.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"denoiser at '.*trap.pth'.*nothing in it was executed"):
        load_swin_unet(tmp_path / "trap.pth", UNET)
    assert not (tmp_path / "sprung").exists()


def test_release_is_checked_against_the_file_name(files):
    unet, autoencoder = files
    old = unet.rename(unet.with_name("resshift_realsrx4_s15_v1.pth"))
    with pytest.raises(ValueError, match="release v1 by its name, but version is 'v3'"):
        load_resshift(old, autoencoder, "v3", UNET, VQ)
    assert load_resshift(old, autoencoder, "v1", UNET, VQ).schedule.num_steps == 15
    with pytest.raises(ValueError, match="load_resshift"):
        load_sinsr(old, autoencoder, UNET, VQ)
    distilled = old.rename(old.with_name("SinSR_v1.pth"))
    with pytest.raises(ValueError, match="load_sinsr"):
        load_resshift(distilled, autoencoder, "v1", UNET, VQ)
