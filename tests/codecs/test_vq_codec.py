"""The VQ autoencoder against the original's numbers, its quantisation, and the reader of published files."""

import json
import math
import os
import zlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctsr_lightning.codecs import vq
from ctsr_lightning.codecs.vq import VQCodec, load_vq_codec, vq_autoencoder
from ctsr_lightning.weights.resshift_files import published_name
from helpers.reference import SHARED

PARITY = SHARED / "reference" / "parity"

TINY = {"channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "num_codes": 16}


def tiny():
    codec = VQCodec(vq_autoencoder(**TINY)).eval()
    torch.nn.init.normal_(codec.autoencoder.quantize.embedding.weight)
    return codec


def published_state(codec):
    """The weights under their published names, attention as 1x1 convolutions."""
    state = {published_name(name, 2): value for name, value in codec.autoencoder.state_dict().items()}
    return {k: v[..., None, None] if "attn_1" in k and v.dim() == 2 else v for k, v in state.items()}


@pytest.fixture
def published(tmp_path):
    codec = tiny()
    torch.save(published_state(codec), tmp_path / "vq.pth")
    return codec, tmp_path / "vq.pth"


@pytest.mark.reference
@pytest.mark.parametrize(("size", "options"), [("full", {}), ("small", {"channels": 32, "num_codes": 64})])
def test_names_are_the_published_ones(size, options):
    with torch.device("meta"):
        state = vq_autoencoder(**options).state_dict()
    wanted = json.loads((PARITY / f"vq_f4_{size}.json").read_text())["state_dict"]
    found = {published_name(name, 3): value.shape for name, value in state.items()}
    assert found.keys() == wanted.keys()
    assert all(shape.numel() == math.prod(wanted[name]) for name, shape in found.items())


@pytest.mark.reference
def test_answers_as_the_original_does(tmp_path):
    state = {}
    for name, shape in json.loads((PARITY / "vq_f4_small.json").read_text())["state_dict"].items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        small = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        state[name] = noise / math.sqrt(noise[0].numel()) if noise.dim() > 1 else small
    torch.save(state, tmp_path / "vq.pth")
    codec = load_vq_codec(tmp_path / "vq.pth", {"channels": 32, "num_codes": 64}).eval()
    tensors = load_file(PARITY / "vq_f4_small.safetensors")
    with torch.no_grad():
        latent = codec.encode(tensors["image"])
        torch.testing.assert_close(latent, tensors["latent"], rtol=0, atol=1e-5)
        torch.testing.assert_close(codec.decode(latent), tensors["reconstruction"], rtol=0, atol=1e-4)
    assert (codec.factor, codec.channels) == (4, 3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.bias", "encoder.down.1.block.0.nin_shortcut.bias"),
        ("encoder.down_blocks.0.downsamplers.0.conv.weight", "encoder.down.0.downsample.conv.weight"),
        ("encoder.mid_block.resnets.1.norm2.weight", "encoder.mid.block_2.norm2.weight"),
        ("decoder.mid_block.attentions.0.group_norm.bias", "decoder.mid.attn_1.norm.bias"),
        ("decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        ("decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.2.block.2.conv1.weight"),
        ("decoder.up_blocks.1.upsamplers.0.conv.bias", "decoder.up.1.upsample.conv.bias"),
        ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
        ("quantize.embedding.weight", "quantize.embedding.weight"),
    ],
)
def test_names_are_translated(ours, theirs):
    assert published_name(ours, 3) == theirs


def test_codes_are_the_nearest_and_exact(monkeypatch):
    monkeypatch.setattr(vq, "_ROWS", 7)  # so that the last part is an incomplete one
    codec, latent = tiny(), torch.randn(2, 3, 4, 5, requires_grad=True)
    codes = codec.autoencoder.quantize.embedding.weight
    for row, vector in zip(
        codec.quantize(latent).permute(0, 2, 3, 1).reshape(-1, 3),
        latent.permute(0, 2, 3, 1).reshape(-1, 3),
        strict=True,
    ):
        nearest = min(range(16), key=lambda i: math.dist(codes[i].tolist(), vector.tolist()))
        assert torch.equal(row, codes[nearest])


def test_half_precision_regions_look_up_the_same_codes():
    codec, latent = tiny(), torch.rand(4, 3, 16, 16) * 4 - 2
    wanted = codec.quantize(latent)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.quantize(latent), wanted)


def test_gradient_passes_the_quantisation_unchanged():
    codec, latent = tiny(), torch.randn(1, 3, 4, 4, requires_grad=True)
    weight = torch.randn(1, 3, 4, 4)
    (gradient,) = torch.autograd.grad((codec.quantize(latent) * weight).sum(), latent)
    assert torch.equal(gradient, weight)


def test_latent_is_continuous_and_decoding_quantises():
    codec, image = tiny(), torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        latent = codec.encode(image)
        assert latent.shape == (2, 3, 8, 12)
        assert not torch.equal(codec.quantize(latent), latent)
        assert torch.equal(codec.decode(latent), codec.decode(codec.quantize(latent)))
        assert codec.decode(latent).shape == image.shape


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_checkpointing_computes_every_block_again(checkpointing, passes):
    codec, calls = tiny(), {}
    blocks = {n: m for n, m in codec.named_modules() if type(m).__name__ == "ResnetBlock2D"}
    for name, block in blocks.items():
        block.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    if checkpointing:
        codec.enable_gradient_checkpointing()
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    codec.decode(codec.encode(image)).square().sum().backward()
    assert calls == dict.fromkeys(blocks, passes)


def test_an_error_in_pixels_reaches_pixels_with_and_without_checkpointing():
    codec, image = tiny().double(), (torch.rand(1, 3, 16, 16, dtype=torch.float64) * 2 - 1).requires_grad_()

    def gradient():
        return torch.autograd.grad(codec.decode(codec.encode(image)).square().sum(), image)[0]

    plain = gradient()
    codec.enable_gradient_checkpointing()
    assert plain.abs().max() > 0
    torch.testing.assert_close(gradient(), plain)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="deterministic"):
        tiny().encode(torch.zeros(1, 3, 16, 16), sample=True)
    with pytest.raises(ValueError, match="multiples of 2, found 15x16"):
        tiny().encode(torch.zeros(1, 3, 15, 16))


@pytest.mark.parametrize(
    "write",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    ],
    ids=["bare", "wrapped", "module", "both"],
)
def test_every_dialect_is_read(tmp_path, write):
    codec = tiny()
    torch.save(write(published_state(codec)), tmp_path / "vq.pth")
    loaded = load_vq_codec(tmp_path / "vq.pth", TINY).autoencoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in codec.autoencoder.state_dict().items())


def test_half_precision_becomes_float32(tmp_path):
    codec = tiny()
    save_file({k: v.half().contiguous() for k, v in published_state(codec).items()}, tmp_path / "vq.safetensors")
    loaded = load_vq_codec(tmp_path / "vq.safetensors", TINY).autoencoder.state_dict()
    for name, value in codec.autoencoder.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("quant_conv.bias"), "missing quant_conv.bias"),
        (lambda s: s.update({"loss.logvar": torch.zeros(1)}), "unexpected loss.logvar"),
        (lambda s: s.update({"quant_conv.bias": torch.zeros(5)}), r"quant_conv.bias is \(5,\) in the file, \(3,\)"),
        (lambda s: s.clear(), r"found something else: dict \({}\)"),
        (lambda s: s.update({"input_blocks.0.0.weight": torch.zeros(1)}), "looks like a denoiser"),
    ],
)
def test_differences_are_listed(published, change, message):
    codec, path = published
    state = published_state(codec)
    change(state)
    if "denoiser" in message:
        del state["quantize.embedding.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        load_vq_codec(path, TINY)


def test_layout_of_diffusers_is_named(published):
    codec, path = published
    torch.save({k: v for k, v in codec.autoencoder.state_dict().items() if "quantize" not in k}, path)
    with pytest.raises(ValueError, match="layout of diffusers"):
        load_vq_codec(path, TINY)


def test_truncated_file_is_refused(published):
    _, path = published
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"VQ autoencoder at '.*vq.pth'.*cut short"):
        load_vq_codec(path, TINY)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": {}, "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="nothing in it was executed: it holds more than tensors"):
        load_vq_codec(tmp_path / "trap.pth", TINY)
    assert not (tmp_path / "sprung").exists()


def test_other_contents_are_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="dictionary of tensors"):
        load_vq_codec(tmp_path / "other.pth", TINY)
    with pytest.raises(FileNotFoundError, match=r"nothing.pth.*authors' release page"):
        load_vq_codec(tmp_path / "nothing.pth", TINY)
