"""Published restoration networks: what their files give, and what is said of files that are something else."""

import io
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from ctsr_lightning.cache.identity import identity
from ctsr_lightning.images import quantize, read_image
from ctsr_lightning.metrics.distortion import psnr_y, ssim_y
from ctsr_lightning.networks import read_expert
from helpers import tiny_experts
from helpers.reference import SHARED


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
@pytest.mark.parametrize("wrap", [None, "params", "params_ema", "state_dict", "model"])
def test_every_way_to_publish_weights_gives_the_same_network(tmp_path, name, wrap):
    found = read_expert(tiny_experts.saved(tmp_path / name, wrap=wrap))
    assert (found.architecture, found.scale) == ("RealESRGAN Compact", 4)
    assert torch.equal(found.model.body[0].weight, tiny_experts.compact()["body.0.weight"])


def test_averaged_weights_are_preferred(tmp_path):
    raw, averaged = tiny_experts.compact(seed=1), tiny_experts.compact()
    torch.save({"params": raw, "params_ema": averaged}, tmp_path / "net.pth")
    found = read_expert(tmp_path / "net.pth").model.body[0].weight
    assert torch.equal(found, averaged["body.0.weight"])


def test_compact_network_is_what_its_paper_says(tmp_path):
    state, lq = tiny_experts.compact(), torch.rand(1, 3, 6, 7)
    x = nn.functional.conv2d(lq, state["body.0.weight"], state["body.0.bias"], padding=1)
    x = nn.functional.prelu(x, state["body.1.weight"])
    x = nn.functional.conv2d(x, state["body.2.weight"], state["body.2.bias"], padding=1)
    x = nn.functional.prelu(x, state["body.3.weight"])
    x = nn.functional.conv2d(x, state["body.4.weight"], state["body.4.bias"], padding=1)
    expected = nn.functional.pixel_shuffle(x, 4) + nn.functional.interpolate(lq, scale_factor=4, mode="nearest")
    found = read_expert(tiny_experts.saved(tmp_path / "net.pth"))(lq)
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=0, atol=1e-6)
    assert not torch.equal(found, expected)  # some pixels left [0, 1]


def test_half_precision_files_are_computed_in_float32(tmp_path):
    halves = {name: value.half() for name, value in tiny_experts.rrdb().items()}
    found = read_expert(tiny_experts.saved(tmp_path / "net.safetensors", halves))
    wide = read_expert(tiny_experts.saved(tmp_path / "wide.pth", {k: v.float() for k, v in halves.items()}))
    lq = torch.rand(1, 3, 6, 6)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert torch.equal(found(lq), wide(lq))
    assert identity(found) == identity(wide)


def test_sides_that_a_network_cannot_take_are_mirrored_and_cut(tmp_path):
    network, lq = read_expert(tiny_experts.saved(tmp_path / "net.pth", tiny_experts.rrdb(2))), torch.rand(2, 3, 5, 6)
    assert (network.scale, network.multiple) == (2, 8)
    mirrored = nn.functional.pad(lq, (0, 2, 0, 3), mode="reflect")
    assert network(lq).shape == (2, 3, 10, 12)
    assert torch.equal(network(lq), network(mirrored)[..., :10, :12])


def test_one_pixel_is_restored(tmp_path):
    for name, state in (("x2", tiny_experts.rrdb(2)), ("x4", tiny_experts.rrdb(4))):
        network = read_expert(tiny_experts.saved(tmp_path / name, state))
        assert network(torch.rand(1, 3, 1, 1)).shape[-2:] == (network.scale, network.scale)


def test_windows_of_an_attention_network(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.meshgrid as it was called then
        swin = SwinIR(
            img_size=16, window_size=8, depths=[2], embed_dim=8, num_heads=[2], upscale=4, upsampler="pixelshuffle"
        )
    network = read_expert(tiny_experts.saved(tmp_path / "net.pth", swin.state_dict()))
    assert network.architecture == "SwinIR"
    assert network(torch.rand(2, 3, 9, 11)).shape == (2, 3, 36, 44)


def test_denoisers_have_scale_1(tmp_path):
    network = read_expert(tiny_experts.saved(tmp_path / "net.pth", tiny_experts.compact(1)))
    assert network.scale == 1
    assert network(torch.rand(1, 3, 7, 9)).shape == (1, 3, 7, 9)


def test_an_image_is_restored_alike_in_any_batch(tmp_path):
    network, lq = read_expert(tiny_experts.saved(tmp_path / "net.pth", tiny_experts.rrdb())), torch.rand(3, 3, 8, 8)
    assert torch.equal(network(lq)[1:2], network(lq[1:2]))


def test_restored_images_may_be_compared_with_in_a_loss(tmp_path):
    network = read_expert(tiny_experts.saved(tmp_path / "net.pth"))
    guess = torch.rand(1, 3, 16, 16, requires_grad=True)
    target = network(torch.rand(1, 3, 4, 4))
    (guess * target).sum().backward()  # keeps the target for its gradient
    assert torch.equal(guess.grad, target)


@pytest.mark.parametrize("supported", [True, False])
def test_autocast_reaches_only_networks_made_for_half_precision(tmp_path, supported):
    network, lq = read_expert(tiny_experts.saved(tmp_path / "net.pth", tiny_experts.rrdb())), torch.rand(1, 3, 8, 8)
    network._descriptor.supports_bfloat16 = supported
    expected = network(lq)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(lq)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) is not supported
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_restoring_leaves_the_random_state_alone(tmp_path):
    network = read_expert(tiny_experts.saved(tmp_path / "net.pth"))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network(torch.zeros(1, 3, 4, 4))
    assert torch.equal(torch.rand(1), expected)


def test_identity_is_that_of_the_weights(tmp_path):
    first, moved, other = (
        read_expert(tiny_experts.saved(tmp_path / name, tiny_experts.compact(seed=seed)))
        for name, seed in (("a.pth", 0), ("b.safetensors", 0), ("c.pth", 1))
    )
    assert identity(first) == identity(moved)
    assert identity(first) != identity(other)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*found nothing"):
        read_expert(tmp_path / "nowhere.pth")


def test_a_damaged_file(tmp_path):
    for name in ("net.pth", "net.safetensors"):
        whole = tiny_experts.saved(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            ValueError, match=rf"Expected weights of a restoration network .*{name}.*cannot be read safely"
        ):
            read_expert(tmp_path / name)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    torch.save({"params_ema": tiny_experts.compact(), "trap": Trap()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="nothing in it was executed"):
        read_expert(tmp_path / "net.pth")


def test_other_formats_are_refused(tmp_path):
    onnx = tmp_path / "net.onnx"
    onnx.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x051.13.0")
    script = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's end
        torch.jit.save(torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)), script)
    archive = tmp_path / "net.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("net.pth", io.BytesIO(b"weights").getvalue())
    for path in (onnx, script, archive):
        with pytest.raises(ValueError, match=r"\(\.pth, \.safetensors; no ONNX, ncnn, TorchScript\)"):
            read_expert(path)


def test_a_classifier_is_no_restoration_network(tmp_path):
    state = {
        "features.0.weight": torch.zeros(8, 3, 3, 3),
        "features.0.bias": torch.zeros(8),
        "fc.weight": torch.zeros(9, 8),
    }
    with pytest.raises(
        ValueError, match=r"that spandrel knows .* found 3 tensors of another one \(features\.0\.weight"
    ):
        read_expert(tiny_experts.saved(tmp_path / "net.pth", state, wrap=None))


def test_weights_that_only_resemble_a_network(tmp_path):
    lacking = tiny_experts.rrdb()
    del lacking["conv_body.bias"]
    misshapen = tiny_experts.compact() | {"body.2.weight": torch.zeros(5, 8, 3, 3)}
    for state in (lacking, misshapen):
        with pytest.raises(ValueError, match="They resemble those of one, but do not fit it: "):
            read_expert(tiny_experts.saved(tmp_path / "net.pth", state))


def test_a_network_for_grey_images(tmp_path):
    with pytest.raises(ValueError, match=r"3 channels in and out, .* found RealESRGAN Compact with 1 in and 1 out"):
        read_expert(tiny_experts.saved(tmp_path / "net.pth", tiny_experts.compact(channels=1)))


def plain_rrdb(state, lq):
    """RRDBNet as in Figure 4 of Real-ESRGAN's paper, in nothing but convolutions; at x4."""

    def conv(x, name):
        return nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def active(x, name):
        return nn.functional.leaky_relu(conv(x, name), 0.2)

    first = x = conv(lq, "conv_first")
    for block in range(sum(name.endswith("rdb1.conv1.weight") for name in state)):
        y = x
        for dense in (f"body.{block}.rdb{i}" for i in (1, 2, 3)):
            seen = [y]
            for i in (1, 2, 3, 4):
                seen.append(active(torch.cat(seen, dim=1), f"{dense}.conv{i}"))
            y = y + 0.2 * conv(torch.cat(seen, dim=1), f"{dense}.conv5")
        x = x + 0.2 * y
    x = first + conv(x, "conv_body")
    for name in ("conv_up1", "conv_up2"):
        x = active(nn.functional.interpolate(x, scale_factor=2, mode="nearest"), name)
    return conv(active(x, "conv_hr"), "conv_last").clamp(0, 1)


def test_rrdb_network_is_what_its_paper_says(tmp_path):
    state, lq = tiny_experts.rrdb(), torch.rand(1, 3, 9, 8)
    found = read_expert(tiny_experts.saved(tmp_path / "net.pth", state))(lq)
    torch.testing.assert_close(found, plain_rrdb(state, lq), rtol=0, atol=1e-5)
    assert found.std() > 0.05


@pytest.mark.slow
@pytest.mark.reference
def test_real_esrgan_on_photographs():
    """The published weights on crops of RealSR, pinned; the same by plain convolutions."""
    file = SHARED / "experts" / "realesrgan_x4plus.safetensors"
    network, state = read_expert(file), {name: value.float() for name, value in load_file(file).items()}
    assert (network.architecture, network.scale) == ("ESRGAN", 4)
    pinned = {"Canon_001": (28.7201, 0.9463), "Canon_041": (18.7687, 0.3141), "Nikon_041": (17.1745, 0.7038)}
    for name, expected in pinned.items():
        lq, gt = (
            read_image(SHARED / "data" / "realsr" / side / f"realsr_{name}_LR4.png")[None] for side in ("lq", "gt")
        )
        lq, gt = lq[..., 40:88, 40:88], gt[..., 160:352, 160:352]
        restored = network(lq)
        found = [metric(quantize(restored), gt).item() for metric in (psnr_y, ssim_y)]
        assert found == pytest.approx(expected, abs=1e-3)
    small = lq[..., :12, :12]
    torch.testing.assert_close(network(small), plain_rrdb(state, small), rtol=0, atol=1e-4)
