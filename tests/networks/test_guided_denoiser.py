"""Denoisers that see a guide."""

import pytest
import torch

from ctsr_lightning.networks import GuidedByControlNet, GuidedByInput, LoRA
from ctsr_lightning.networks.lora import adapters_of
from ctsr_lightning.networks.sharing import share
from helpers import tiny

TIME = torch.tensor([3, 998])
PROMPT = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 2, 6)
MAKERS = {
    "input": lambda: GuidedByInput(tiny.prompted_unet()),
    "adapters": lambda: GuidedByInput(tiny.prompted_unet(), LoRA()),
    "controlnet": lambda: GuidedByControlNet(tiny.prompted_unet()),
}


def latents(dtype=torch.float64):
    return torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture(params=MAKERS)
def denoiser(request):
    return MAKERS[request.param]().double()


def test_it_starts_as_the_unet_and_then_sees_its_guide(denoiser):
    noisy, guide = latents()
    bare = tiny.prompted_unet().double().requires_grad_(False)(noisy, TIME, PROMPT).sample
    frozen = denoiser.requires_grad_(False)  # torch takes other kernels where weights are trained
    assert torch.equal(frozen(noisy, TIME, PROMPT, guide), bare)
    tiny.shaken(denoiser)
    with_guide, without = (denoiser(noisy, TIME, PROMPT, g) for g in (guide, torch.zeros_like(guide)))
    assert not torch.allclose(with_guide, without)
    changed = torch.stack([guide[0], guide[1] + 1.0])
    torch.testing.assert_close(denoiser(noisy, TIME, PROMPT, changed)[0], with_guide[0], rtol=0, atol=1e-12)
    assert (denoiser.channels, denoiser.cell) == (4, 2)


def test_only_the_guided_part_of_a_frozen_base_is_trained():
    controlled, adapted = MAKERS["controlnet"](), MAKERS["adapters"]()
    trained = {name for name, p in controlled.named_parameters() if p.requires_grad}
    assert trained == {f"controlnet.{name}" for name, _ in controlled.controlnet.named_parameters()}
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {
        f"unet.conv_in.{name}"
        for name in ("base.base_layer.weight", "base.base_layer.bias", "guide.weight", "guide.bias")
    }
    assert all(p.requires_grad for p in MAKERS["input"]().parameters())


def test_every_trained_weight_gets_a_gradient(denoiser):
    noisy, guide = latents()
    tiny.shaken(denoiser)
    denoiser(noisy, TIME, PROMPT, guide).square().mean().backward()
    silent = [name for name, p in denoiser.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert all(p.grad is None for p in denoiser.parameters() if not p.requires_grad)


def test_a_shared_base_is_left_alone():
    key = ("guided", "test")
    controlled = GuidedByControlNet(share(key, tiny.prompted_unet))
    other = share(key, tiny.prompted_unet)
    assert controlled.unet.conv_in.weight is other.conv_in.weight
    assert controlled.controlnet.conv_in.weight is not other.conv_in.weight
    assert (
        GuidedByInput(share(key, tiny.prompted_unet), LoRA()).unet.conv_out.base_layer.weight is other.conv_out.weight
    )
    with pytest.raises(ValueError, match="Without `lora` all weights"):
        GuidedByInput(other)


def test_adapters_are_merged_for_inference():
    denoiser, (noisy, guide) = tiny.shaken(MAKERS["adapters"]().double()), latents()
    expected = denoiser(noisy, TIME, PROMPT, guide)
    (unet,) = denoiser.for_inference()
    assert not adapters_of(unet)
    torch.testing.assert_close(denoiser(noisy, TIME, PROMPT, guide), expected, rtol=1e-9, atol=1e-10)


def test_a_control_net_needs_a_middle_block():
    with pytest.raises(ValueError, match=r"Expected a UNet with a middle block .*found none\. Use GuidedByInput"):
        GuidedByControlNet(tiny.unet())


def test_gradient_checkpointing_changes_nothing():
    found = []
    for checkpointing in (False, True):
        denoiser = tiny.shaken(GuidedByControlNet(tiny.prompted_unet(), checkpointing).double().train())
        denoiser(latents()[0], TIME, PROMPT, latents()[1]).square().mean().backward()
        found.append(denoiser.controlnet.controlnet_cond_embedding.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
