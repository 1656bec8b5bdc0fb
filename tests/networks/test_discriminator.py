"""The discriminator, the feature maps that it sees, and what its spectral norm does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.losses import adversarial
from ctsr_lightning.metrics.maps import SqueezeMaps, TextureMaps, feature_maps
from ctsr_lightning.metrics.perceptual import LPIPS, lpips_weights
from ctsr_lightning.networks import DinoMaps, Discriminator
from ctsr_lightning.networks.discriminator import SpectralConv2d, normalized


def images(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(TextureMaps(), width=8).double()


def test_it_keeps_no_buffers_and_no_maps(discriminator: Discriminator) -> None:
    assert not list(discriminator.buffers())
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads"}
    assert discriminator.state_dict().keys() == dict(discriminator.named_parameters()).keys()


def test_logits_are_those_of_all_maps_and_places(discriminator: Discriminator) -> None:
    logits = discriminator(discriminator.maps(images()))
    assert logits.shape == (2, 32**2 + 16**2 + 8**2)
    torch.testing.assert_close(discriminator(discriminator.maps(images()[1:])), logits[1:])  # no batch statistics


def test_the_largest_singular_value_is_one() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(4, 6, 1, bias=False).double()
    x = torch.randn(50, 4, 1, 1, dtype=torch.float64)
    scaled = layer(x).flatten(1)
    used = torch.linalg.lstsq(x.flatten(1), scaled).solution.T
    assert torch.linalg.svdvals(used)[0].item() == pytest.approx(1.0, rel=1e-10)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    torch.testing.assert_close(layer(x).flatten(1), scaled)
    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(layer, {"weight": w}, (x[:2],)), (weight,), fast_mode=True
    )


def test_detached_weights_judge_alike_and_get_no_gradient(discriminator: Discriminator) -> None:
    shown = images().requires_grad_()
    maps = discriminator.maps(shown)
    logits = discriminator.detached(maps)
    torch.testing.assert_close(logits, discriminator(maps))  # singular values with and without their vectors
    adversarial.generator(logits).backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert shown.grad is not None
    assert bool(shown.grad.any())


def test_a_condition_is_projected() -> None:
    torch.manual_seed(0)
    conditioned = Discriminator(TextureMaps(), width=8, condition=5).double()
    maps, c = conditioned.maps(images()), torch.randn(2, 5, dtype=torch.float64)
    logits = conditioned(maps, c)
    assert logits.shape == (2, 1344)
    features, matrix = conditioned.heads[2](maps[2]), conditioned.projections[2].weight
    expected = torch.einsum("bkhw,ki,bi->bhw", features, matrix, c) / 8**0.5
    torch.testing.assert_close(logits[:, -64:], expected.flatten(1))
    torch.testing.assert_close(conditioned(maps, -c), -logits)
    with pytest.raises(ValueError, match="Expected a condition"):
        conditioned(maps)


def test_it_learns_to_tell_sharp_from_blurred(discriminator: Discriminator) -> None:
    sharp = images(4)
    blurred = F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        real, fake = (discriminator(discriminator.maps(x)) for x in (sharp, blurred))
        (adversarial.hinge_real(real) + adversarial.hinge_fake(fake)).backward()
        optimizer.step()
    real, fake = (discriminator(discriminator.maps(x)).mean() for x in (sharp, blurred))
    assert real > fake + 0.5


def test_texture_maps_are_odd_and_bounded() -> None:
    x = images()
    maps = TextureMaps()(x)
    assert [tuple(found.shape) for found in maps] == [(2, 6, 32, 32), (2, 6, 16, 16), (2, 6, 8, 8)]
    assert all(bool((found.abs() < 1.0).all()) for found in maps)
    for found, mirrored in zip(maps, TextureMaps()(1.0 - x), strict=True):
        torch.testing.assert_close(mirrored, -found)
    assert not any(bool(found.any()) for found in TextureMaps()(torch.full((1, 3, 16, 16), 0.5)))


def test_normalized_features_have_mean_square_one() -> None:
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(normalized(x).square().mean(dim=1), torch.ones(2, 3, 3, dtype=torch.float64))


def test_without_weights_texture_takes_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert isinstance(feature_maps(), TextureMaps)


@pytest.mark.skipif(not lpips_weights("squeeze").is_file(), reason="SqueezeNet's weights are not on disk")
def test_squeeze_maps_are_those_that_lpips_compares() -> None:
    maps, lpips = SqueezeMaps(), LPIPS("squeeze")
    x, y = images().float(), images().flip(0).float()
    found = [maps(z) for z in (x, y)]
    assert tuple(m.shape[1] for m in found[0]) == maps.channels
    total = torch.zeros(2)
    for a, b, head in zip(*found, lpips.distance.lins, strict=True):
        total += head((a - b).square() / a.shape[1]).mean(dim=(1, 2, 3))
    torch.testing.assert_close(total, lpips(x, y), rtol=1e-4, atol=1e-6)
    assert isinstance(feature_maps(), SqueezeMaps)


@pytest.fixture
def dino(tmp_path: Path) -> Path:
    """A vision transformer of toy size in transformers' layout."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 8, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(tmp_path / "d")
    return tmp_path / "d"


def test_dino_maps_are_tokens_after_every_quarter(dino: Path) -> None:
    maps = DinoMaps(dino).eval()
    blocks = maps.network.encoder.layer if hasattr(maps.network, "encoder") else maps.network.layers
    seen: list[torch.Tensor] = []
    blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for number in (1, 3, 5, 7):
        blocks[number].register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    found = maps(images(side=50).float())
    assert maps.channels == (8,) * 5
    assert [tuple(m.shape) for m in found] == [(2, 8, 4, 4)] * 5
    for one, state in zip(found, seen, strict=True):
        tokens = state[:, 1:] + state[:, :1]
        expected = normalized(tokens.transpose(1, 2).reshape(2, 8, 4, 4))
        torch.testing.assert_close(one, expected)


def test_dino_maps_let_gradients_through(dino: Path) -> None:
    torch.manual_seed(0)
    judge = Discriminator(DinoMaps(dino), width=4)
    shown = images(side=40).float().requires_grad_()
    judge.detached(judge.maps(shown)).sum().backward()
    assert bool(shown.grad.any())  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in judge.maps.network.parameters())


def test_dino_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no config\.json there\. Download facebook/dino-vits16"):
        DinoMaps(tmp_path)
