"""ResShift's denoiser against the published layout, against numbers of the original, and against closed forms."""

import json
import math
import zlib

import pytest
import torch
from safetensors.torch import load_file

from ctsr_lightning.networks import swin_blocks
from ctsr_lightning.networks.swin_blocks import BLOCKED, ShiftMasks, WindowAttention, relative_positions, shift_mask
from ctsr_lightning.networks.swin_unet import SwinUNet, time_embedding
from helpers.reference import SHARED

PARITY = SHARED / "reference" / "parity"

FIXED = {"conv_resample", "dims", "use_fp16", "use_scale_shift_norm", "resblock_updown", "cond_lq", "lq_size"}
"""What the original can be told and all published x4 models have in common."""
TINY = {
    "image_size": 16,
    "model_channels": 32,
    "attention_resolutions": (16, 8),
    "channel_mult": (1, 2),
    "num_res_blocks": (1, 1),
    "num_head_channels": 16,
    "swin_embed_dim": 32,
    "window_size": 4,
}


def tiny(**options):
    return SwinUNet(**(TINY | options)).eval()


def inputs(batch=2, height=16, width=16, dtype=torch.float32):
    x, lq = torch.randn(2, batch, 3, height, width, dtype=dtype)
    return x, torch.arange(batch), lq.clamp(-1, 1)


def published(size):
    spec = json.loads((PARITY / f"resshift_unet_{size}.json").read_text())
    return {k: v for k, v in spec["config"].items() if k not in FIXED}, spec["state_dict"]


@pytest.mark.reference
@pytest.mark.parametrize("size", ["small", "full"])
def test_names_and_shapes_are_the_published_ones(size):
    config, names = published(size)
    with torch.device("meta"):
        network = SwinUNet(**config)
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == names


def test_defaults_are_the_published_model():
    with torch.device("meta"):
        network = SwinUNet()
    assert len(network.state_dict()) == 564
    assert sum(p.numel() for p in network.parameters()) == 118_593_583
    assert network.multiple == 64


@pytest.mark.reference
@pytest.mark.parametrize("size", ["64x64", "64x128"])
def test_answers_as_the_original_does(size):
    network = SwinUNet(**published("small")[0]).eval()
    for name, value in network.state_dict().items():
        if not name.endswith(("attn_mask", "relative_position_index")):
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            small = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
            value.copy_(noise / math.sqrt(value[0].numel()) if value.dim() > 1 else small)
    tensors = load_file(PARITY / "resshift_unet_small.safetensors")
    with torch.no_grad():
        found = network(tensors[f"{size}.x"], tensors[f"{size}.timesteps"], tensors[f"{size}.lq"])
    torch.testing.assert_close(found, tensors[f"{size}.out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns", "window", "shift"), [(1, 1, 4, 2), (3, 2, 4, 2), (2, 5, 4, 1)])
def test_mask_parts_the_last_row_of_windows_by_column(rows, columns, window, shift):
    mask = shift_mask(rows * window, columns * window, window, shift).view(rows, columns, window**2, window**2)
    for row in range(rows):
        for i in range(window**2):
            for j in range(window**2):
                sides = {i % window < window - shift, j % window < window - shift}
                blocked = row == rows - 1 and len(sides) == 2
                assert (mask[row, :, i, j] == (BLOCKED if blocked else 0.0)).all()


def test_masks_are_built_once_per_size(monkeypatch):
    built = []
    build = swin_blocks.shift_mask

    def counted(*size):
        built.append(size)
        return build(*size)

    network = tiny()
    monkeypatch.setattr(swin_blocks, "shift_mask", counted)
    with torch.no_grad():
        first = network(*inputs(1, 16, 24))
        assert sorted(built) == [(8, 12, 4, 2), (16, 24, 4, 2)]  # one per resolution, though each attends twice
        torch.manual_seed(0)
        network(*inputs(1, 16, 24))
        assert len(built) == 2
        network(*inputs(1, 24, 24))
    assert len(built) == 4
    assert first.isfinite().all()


def test_old_masks_make_room():
    masks = ShiftMasks(limit=2)
    kept = [masks.get(height, 4, 4, 2, torch.device("cpu")) for height in (4, 8, 12)]
    assert list(masks.kept.values()) == kept[1:]


def test_mask_among_the_weights_takes_no_part():
    network, x = tiny(), inputs()
    before = network(*x)
    for name, value in network.state_dict().items():
        if name.endswith("attn_mask"):
            value.fill_(7.0)
    assert torch.equal(network(*x), before)


def test_masks_of_inference_mode_serve_training():
    network = tiny()
    with torch.inference_mode():
        network(*inputs())
    network(*inputs()).sum().backward()
    assert network.input_blocks[0][0].weight.grad.isfinite().all()


def test_relative_positions_index_every_offset():
    window = 3
    index = relative_positions(window)
    for i in range(window**2):
        for j in range(window**2):
            down, right = i // window - j // window, i % window - j % window
            assert index[i, j] == (down + window - 1) * (2 * window - 1) + right + window - 1
    assert index.unique().numel() == (2 * window - 1) ** 2


def test_window_attention_is_softmax_of_scaled_products_bias_and_mask():
    attention = WindowAttention(channels=8, window=2, heads=2).double()
    windows = torch.randn(6, 4, 8, dtype=torch.float64)  # two images of three windows
    mask = torch.where(torch.rand(3, 4, 4) < 0.3, -100.0, 0.0)
    mask.diagonal(dim1=1, dim2=2).zero_()
    expected = torch.empty_like(windows)
    for n in range(6):
        query, key, value = attention.qkv(windows[n]).split(8, dim=1)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            bias = attention.relative_position_bias_table[relative_positions(2), head]
            logits = query[:, part] @ key[:, part].T / 2.0 + bias + mask[n % 3]
            expected[n, :, part] = logits.softmax(dim=1) @ value[:, part]
    torch.testing.assert_close(attention(windows, mask), attention.proj(expected))


def test_time_embedding_is_cosines_then_sines():
    embedding = time_embedding(torch.tensor([0.0, 3.0], dtype=torch.float64), 7)
    for i in range(3):
        angle = 3.0 * 10000 ** (-i / 3)
        assert embedding[1, i].item() == pytest.approx(math.cos(angle))
        assert embedding[1, 3 + i].item() == pytest.approx(math.sin(angle))
    assert embedding[0].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert embedding[1, 6] == 0


def test_every_input_matters():
    network, (x, step, lq) = tiny(), inputs()
    base = network(x, step, lq)
    for other in (network(x + 0.1, step, lq), network(x, step + 1, lq), network(x, step, lq - 0.1)):
        assert (other - base).abs().max() > 1e-4


def test_an_image_does_not_depend_on_its_batch():
    network, (x, step, lq) = tiny().double(), inputs(3, 16, 24, torch.float64)
    batch = network(x, step, lq)
    alone = torch.cat([network(x[i : i + 1], step[i : i + 1], lq[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-12)


def test_gradients_reach_the_latent_and_the_image_and_survive_checkpointing():
    network = tiny().double()
    x, step, lq = inputs(1, 16, 24, torch.float64)
    x.requires_grad_(), lq.requires_grad_()
    plain = torch.autograd.grad(network(x, step, lq).square().sum(), (x, lq))
    network.enable_gradient_checkpointing()
    recomputed = torch.autograd.grad(network(x, step, lq).square().sum(), (x, lq))
    for one, other in zip(plain, recomputed, strict=True):
        assert one.abs().amax(dim=1).min() > 0
        torch.testing.assert_close(one, other)


def test_lower_precision_is_that_of_the_weights():
    network, (x, step, lq) = tiny(), inputs()
    wide = network(x, step, lq)
    narrow = network.bfloat16()(x, step, lq)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=0, atol=0.1)


@pytest.mark.parametrize("size", [(12, 16), (16, 20), (4, 4)])
def test_sizes_without_whole_windows_are_refused(size):
    with pytest.raises(ValueError, match=rf"multiples of 8 .* found {size[0]}x{size[1]}"):
        tiny()(*inputs(1, *size))


def test_enlarged_image_is_refused():
    x, step, _ = inputs(1)
    with pytest.raises(ValueError, match="latent's grid, 16x16, found 64x64"):
        tiny()(x, step, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_res_blocks": (1,)}, "found 2 and 1"),
        ({"model_channels": 48}, "multiples of 32"),
        ({"num_head_channels": 24}, r"num_head_channels \(24\)"),
    ],
)
def test_misfitting_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)
