"""The network of a conditional flow."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ctsr_lightning.codecs import PixelCodec
from ctsr_lightning.diffusion.flow import GaussianFlow, integrate
from ctsr_lightning.diffusion.sampling import noise_by_content
from ctsr_lightning.networks import FlowNetwork, nano_unet
from ctsr_lightning.weights.search import MissingWeightsError
from helpers import tiny


def latents():
    return torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


TIME = torch.tensor([0.25, 1.0], dtype=torch.float64)


def silent(network):
    """The network with a UNet that is zero."""
    for parameter in network.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    return network


@pytest.mark.parametrize("method", ["velocity", "mean_velocity"])
def test_unet_sees_the_state_the_condition_and_999_tau(method):
    network, (x, c) = tiny.flow_network().double(), latents()
    shown = []
    network.unet.register_forward_pre_hook(lambda _, args: shown.append(args))
    found = getattr(network, method)(x, TIME, c)
    ((sample, timestep, prompt),) = shown
    assert torch.equal(sample, torch.cat([x, c], dim=1))
    assert timestep.tolist() == [249.75, 999.0]
    assert prompt is None
    assert torch.equal(found, network.unet(sample, timestep, None).sample)


@pytest.mark.parametrize("std", [0.25, [0.125, 0.25, 0.5, 1.0]])
@pytest.mark.parametrize("method", ["velocity", "mean_velocity"])
def test_unet_corrects_the_gaussian_flow(method, std):
    network, (x, c) = tiny.flow_network(residual_std=std).double(), latents()
    shown = []
    network.unet.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    found, t = getattr(network, method)(x, TIME, c), TIME.view(-1, 1, 1)
    output = network.unet(shown[0], 999 * TIME, None).sample
    assert torch.equal(shown[0][:, 4:], c)
    for channel, one in enumerate(std if isinstance(std, list) else [std] * 4):
        linear = getattr(GaussianFlow(0.5, one), method)(x, TIME, c, c)[:, channel]
        moment = t if method == "velocity" else 0 * t
        spread = ((1 - moment) ** 2 * 0.25 + moment**2 * one**2) ** 0.5
        deviation = (x - (1 - moment)[..., None] * 0.75**0.5 * c - moment[..., None] * c)[:, channel] / spread
        torch.testing.assert_close(shown[0][:, channel], deviation, rtol=1e-9, atol=1e-9)
        scale = one * 0.5 / spread if method == "velocity" else one
        torch.testing.assert_close(found[:, channel], linear + scale * output[:, channel], rtol=1e-9, atol=1e-9)


def test_both_velocities_are_one_at_the_start():
    network, (x, c) = tiny.flow_network(residual_std=0.25).double(), latents()
    zero = torch.zeros(2, dtype=torch.float64)
    found = network.mean_velocity(x, zero, c)
    torch.testing.assert_close(found, network.velocity(x, zero, c), rtol=1e-12, atol=1e-12)


def test_gaussian_flow_alone_restores_condition_and_noise():
    network, lq = silent(tiny.flow_network(residual_std=0.25, steps=40)), tiny.batch().lq
    c = network.degraded(lq)
    noise = noise_by_content(lq, 5)(c)
    expected = network.decode(c + 0.25 * noise)
    torch.testing.assert_close(network.restore(lq, seed=5), expected, rtol=0, atol=1e-3)


def test_restoring_follows_the_flow():
    network, lq = tiny.flow_network(steps=3, solver="heun").double(), tiny.batch(dtype=torch.float64).lq
    up = F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
    c = network.codec.encode(2 * up - 1)
    x_0 = 0.75**0.5 * c + 0.5 * noise_by_content(lq, 0)(c)
    x_1 = integrate(lambda x, t: network.velocity(x, t, c), x_0, 3, "heun")
    expected = ((network.codec.decode(x_1) + 1) / 2).clamp(0, 1)
    found = network.restore(lq)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not found.requires_grad


@pytest.mark.parametrize("order", [[1], [1, 0], [0, 1, 1]])
def test_an_image_is_restored_alike_in_every_batch(order):
    network, lq = tiny.flow_network().double(), tiny.batch(dtype=torch.float64).lq
    found, whole = network.restore(lq[order])[order.index(1)], network.restore(lq)[1]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_seeds_differ():
    network, lq = tiny.flow_network(), tiny.batch().lq
    assert torch.equal(network.restore(lq, 1), network.restore(lq, 1))
    assert not torch.allclose(network.restore(lq, 1), network.restore(lq, 2))


def test_pixels_are_a_space_like_any_other():
    network = FlowNetwork(nano_unet(48, 96, widths=(8, 16)), PixelCodec(4), sigma=0.2)
    assert (network.multiple, network.cell) == (8, 2)
    lq = tiny.batch().lq
    c = network.degraded(lq)
    up = F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(network.decode(c), up)
    assert network.restore(lq).shape == (2, 3, 32, 32)


def test_weights_of_either_training_are_read(tmp_path):
    trained, file = tiny.flow_network(seed=3), tmp_path / "weights.safetensors"
    save_file({f"student.network.{name}": p for name, p in trained.named_parameters() if p.requires_grad}, file)
    found = tiny.flow_network(weights=file)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in trained.state_dict().items())
    with pytest.raises(ValueError, match=r"Expected the weights of FlowNetwork.*found others"):
        tiny.flow_network(unet=nano_unet(4, 8, widths=(8, 24)), weights=file)
    with pytest.raises(MissingWeightsError):
        tiny.flow_network(weights=tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet": tiny.unet()}, "Expected a UNet with 8 channels in .* found 4 in and 4 out"),
        ({"sigma": 0.0}, r"Expected sigma in \(0, 1\], found 0.0"),
        ({"sigma": 1.5}, r"Expected sigma in \(0, 1\], found 1.5"),
        ({"sigma": float("nan")}, r"Expected sigma in \(0, 1\], found nan"),
        ({"steps": 0}, "Expected at least 1 step, found 0"),
        ({"residual_std": 0.0}, "Expected residual_std > 0, one number or 4, found 0.0"),
        ({"residual_std": [0.1, 0.2]}, r"Expected residual_std > 0, one number or 4, found \[0.1, 0.2\]"),
    ],
)
def test_settings_that_make_no_flow_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.flow_network(**options)
