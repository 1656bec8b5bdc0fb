"""OSEDiff's adapters, counted on the full-size networks and computed on tiny ones."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.networks import LoRA
from ctsr_lightning.networks.lora import adapters_off, add_encoder_adapters, add_named_adapter, add_unet_adapters
from helpers import tiny
from helpers.adapter_files import SD21_UNET

SD_AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
UNET_ADAPTERS = ("default_encoder", "default_decoder", "default_others")


@pytest.fixture(scope="module")
def full_unet():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
        add_unet_adapters(unet, LoRA())
    return unet


@pytest.fixture(scope="module")
def full_autoencoder():
    with torch.device("meta"):
        autoencoder = AutoencoderKL(**SD_AUTOENCODER)
        add_encoder_adapters(autoencoder, LoRA())
    return autoencoder


def sizes(module, *parts):
    """Shapes of the parameters whose name contains one of these parts."""
    return {n: tuple(p.shape) for n, p in module.named_parameters() if any(part in n for part in parts)}


def count(module, *parts):
    return sum(torch.Size(shape).numel() for shape in sizes(module, *parts).values())


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "modules", "parameters"),
    [("default_encoder", 94, 1_253_776), ("default_decoder", 148, 2_425_104), ("default_others", 16, 376_832)],
)
def test_full_unet_carries_the_published_adapters(full_unet, adapter, modules, parameters):
    assert len(sizes(full_unet, f"lora_A.{adapter}.")) == modules
    assert count(full_unet, f".{adapter}.") == parameters


def test_full_unet_trains_adapters_and_conv_in(full_unet):
    assert count(full_unet, "lora_") == 4_055_712
    assert count(full_unet, "conv_in.base_layer") == 11_840
    assert trainable(full_unet) == sizes(full_unet, "lora_", "conv_in.base_layer").keys()


def test_full_critic_trains_adapters_alone():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
        add_unet_adapters(unet, LoRA(), train_conv_in=False)
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == 4_055_712
    assert trainable(unet) == sizes(unet, "lora_").keys()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv_in.base_layer.weight", (320, 4, 3, 3)),
        ("conv_in.base_layer.bias", (320,)),
        ("conv_in.lora_A.default_encoder.weight", (4, 4, 3, 3)),
        ("conv_in.lora_B.default_encoder.weight", (320, 4, 1, 1)),
        ("down_blocks.0.attentions.0.proj_in.lora_A.default_encoder.weight", (4, 320)),
        ("mid_block.resnets.1.conv2.lora_A.default_others.weight", (4, 1280, 3, 3)),
        ("up_blocks.0.upsamplers.0.conv.lora_A.default_decoder.weight", (4, 1280, 3, 3)),
        ("conv_out.lora_B.default_decoder.weight", (4, 4, 1, 1)),
    ],
)
def test_full_unet_uses_the_published_names(full_unet, name, shape):
    assert tuple(full_unet.get_parameter(name).shape) == shape


def test_full_unet_saves_the_published_number_of_tensors(full_unet):
    # The 518 entries of OSEDiff's `state_dict_unet`: names with "lora" or "conv_in".
    assert len(sizes(full_unet, "lora", "conv_in")) == 518


def test_time_embeddings_are_not_adapted(full_unet):
    adapted = [name for name, child in full_unet.named_modules() if isinstance(child, BaseTunerLayer)]
    assert not [name for name in adapted if "time_emb" in name]


def test_full_encoder_carries_the_published_adapters(full_autoencoder):
    assert len(sizes(full_autoencoder, "lora_A.default_encoder.")) == 32
    assert count(full_autoencoder, "lora_") == 369_356
    assert trainable(full_autoencoder) == sizes(full_autoencoder, "lora_").keys()


def test_decoder_is_not_adapted(full_autoencoder):
    adapted = [name for name, child in full_autoencoder.named_modules() if isinstance(child, BaseTunerLayer)]
    assert "quant_conv" in adapted
    assert not [name for name in adapted if name.startswith(("decoder", "post_quant_conv"))]


def test_full_generator_has_the_published_size(full_unet, full_autoencoder):
    parameters = [*full_unet.parameters(), *full_autoencoder.parameters()]
    assert sum(p.numel() for p in parameters if p.requires_grad) == 4_436_908


def test_default_scale_is_two():
    unet = tiny.prompted_unet()
    add_unet_adapters(unet, LoRA())
    scales = {
        scale for child in unet.modules() if isinstance(child, BaseTunerLayer) for scale in child.scaling.values()
    }
    assert scales == {2.0}


def test_adapter_adds_alpha_over_rank_times_b_a():
    unet = tiny.prompted_unet()
    name = "up_blocks.1.attentions.0.proj_in"
    weight = unet.get_submodule(name).weight.detach().clone()
    add_unet_adapters(unet, LoRA(rank=3, alpha=12))
    layer = tiny.shaken(unet.get_submodule(name), 0.5)
    weight = layer.base_layer.weight.detach()
    update = 4.0 * layer.lora_B["default_decoder"].weight @ layer.lora_A["default_decoder"].weight
    x = torch.randn(5, weight.shape[1])
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight + update, layer.base_layer.bias))


def test_fresh_adapters_change_nothing():
    unet = tiny.prompted_unet().requires_grad_(False)  # torch multiplies by trainable weights in another order
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 2, 6))
    before = unet(*inputs).sample
    add_unet_adapters(unet, LoRA())
    assert torch.equal(unet(*inputs).sample, before)


def test_named_adapter_trains_nothing_else():
    unet = tiny.prompted_unet()
    add_named_adapter(unet, LoRA(), "velocity")
    assert trainable(unet) == sizes(unet, ".velocity.").keys() != set()


def test_codec_without_adaptable_encoder_is_refused():
    with pytest.raises(ValueError, match="Set encoder_lora to null"):
        add_encoder_adapters(NanoCodec(4, 8), LoRA())


@pytest.fixture
def adapted():
    """A UNet with awake adapters, one of whose parameters is frozen, and what its base answers."""
    unet = tiny.prompted_unet().requires_grad_(False)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 2, 6))
    base = unet(*inputs).sample.detach()
    add_unet_adapters(unet, LoRA())
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    unet.get_parameter("conv_out.lora_A.default_decoder.weight").requires_grad_(False)
    return unet, inputs, base


def test_switched_off_adapters_leave_the_base_exactly(adapted):
    unet, inputs, base = adapted
    with_adapters = unet(*inputs).sample
    with adapters_off(unet):
        assert torch.equal(unet(*inputs).sample, base)
    assert not torch.allclose(with_adapters, base)
    assert torch.equal(unet(*inputs).sample, with_adapters)


def test_switching_restores_what_is_trainable(adapted):
    unet, _, _ = adapted
    before = trainable(unet)
    with adapters_off(unet):
        pass
    assert trainable(unet) == before


def test_switching_survives_an_error(adapted):
    unet, inputs, base = adapted
    before = trainable(unet)
    with pytest.raises(RuntimeError, match="boom"), adapters_off(unet):
        raise RuntimeError("boom")
    assert trainable(unet) == before
    assert not torch.allclose(unet(*inputs).sample, base)


def test_switching_may_be_nested(adapted):
    unet, inputs, base = adapted
    with adapters_off(unet):
        with adapters_off(unet):
            pass
        assert torch.equal(unet(*inputs).sample, base)
    assert not torch.allclose(unet(*inputs).sample, base)


def test_switching_keeps_gradients_of_a_pass_before_it(adapted):
    unet, inputs, _ = adapted
    loss = unet(*inputs).sample.square().sum()
    with torch.no_grad(), adapters_off(unet):
        unet(*inputs)
    loss.backward()
    missing = [name for name, p in unet.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_nothing_to_switch_is_fine():
    with adapters_off(tiny.unet()):
        pass
