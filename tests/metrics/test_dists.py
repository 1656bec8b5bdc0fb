"""DISTS against pyiqa's, on generated VGG weights and the authors' weights of the terms."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from ctsr_lightning.files import file_hash
from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.dists import DISTS
from ctsr_lightning.metrics.perceptual import PerceptualMetric
from ctsr_lightning.weights.search import MissingWeightsError, weight_search_path


def features() -> nn.Sequential:
    """VGG-16's convolutions, initialised such that every layer responds, in half precision's values."""
    generator = torch.Generator().manual_seed(0)
    layers = make_layers(cfgs["D"])
    for parameter in layers.parameters():
        scale = (2.0 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.1
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return layers.half().float()


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
    state = {f"features.{key}": value.half() for key, value in features().state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))


def pair(count: int = 2, size: tuple[int, int] = (45, 64)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    gt = torch.rand(count, 3, *size, generator=generator)
    return (gt + 0.2 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), gt


def test_equals_pyiqa(vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyiqa.archs.dists_arch import DISTS as Reference

    distance = DISTS(vgg)
    monkeypatch.setattr(models, "vgg16", lambda **_: SimpleNamespace(features=features()))
    reference = Reference(pretrained=False).eval()
    terms = torch.load(distance.weight_files[1], weights_only=True)
    reference.load_state_dict(terms, strict=False)
    assert torch.equal(reference.alpha, terms["alpha"])
    x, y = pair()
    with torch.no_grad():
        expected = reference(x, y).flatten()
        found = distance(x, y)
    assert found.shape == (2,)
    assert found.min() > 0.01
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_weights_of_the_terms_are_those_that_pyiqa_publishes(vgg: Path) -> None:
    assert file_hash(DISTS(vgg).weight_files[1]).startswith("f5e65c96")  # pyiqa: DISTS_weights-f5e65c96.pth


def test_gradients_reach_the_images_only(vgg: Path) -> None:
    before = torch.get_rng_state()
    distance = DISTS(vgg).train()
    assert torch.equal(before, torch.get_rng_state())
    x, y = pair()
    x.requires_grad_()
    distance(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not any(module.training for module in distance.modules())
    assert {p.dtype for p in distance.parameters()} == {torch.float32}


def test_as_a_metric(vgg: Path) -> None:
    x, y = pair(3, (20, 20))
    distance = DISTS(vgg)
    metric = PerceptualMetric(distance)
    metric.update(x[:1], y[:1])
    metric.update(x[1:], y[1:])
    expected = distance(quantize(x), quantize(y)).double().mean().item()
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
    assert distance(y, y).abs().max() < 1e-6
    assert distance.name == "dists"
    assert metric.definition == distance.definition != ""
    assert metric.weight_files == distance.weight_files
    assert metric.weight_files[0] == vgg


def test_missing_weights_are_named_at_once(tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(MissingWeightsError) as error:
        DISTS()
    assert time.perf_counter() - start < 0.5
    for expected in ("vgg16-397923af.pth", str(tmp_path / "torch"), "https://download.pytorch.org", "--weights"):
        assert expected in str(error.value)


def test_weights_are_found_in_folders_and_must_fit(vgg: Path, tmp_path: Path) -> None:
    with weight_search_path(vgg.parent):
        assert DISTS().weight_files[0] == vgg
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth.*missing features\.0\.bias"):
        DISTS(tmp_path / "other.pth")
