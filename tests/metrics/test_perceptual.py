"""LPIPS against torchmetrics, the stand-in against its definition, and what happens without weights."""

import logging
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision import models

from ctsr_lightning.files import file_hash
from ctsr_lightning.images import read_image
from ctsr_lightning.metrics import perceptual
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.perceptual import LPIPS, PerceptualMetric, lpips_weights, perceptual_distance
from ctsr_lightning.metrics.texture import TextureDistance
from ctsr_lightning.weights.published import ALEXNET
from ctsr_lightning.weights.search import MissingWeightsError, weight_search_path
from helpers.reference import SHARED


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(SHARED / "torch_home"))


@pytest.fixture
def no_torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    return tmp_path


@pytest.mark.reference
@pytest.mark.usefixtures("torch_home")
class TestLPIPS:
    def test_equals_the_documented_example(self) -> None:
        generator = torch.Generator().manual_seed(42)
        x, y = (torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2))
        assert LPIPS("squeeze")(x, y).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)  # torchmetrics' docstring

    def test_equals_torchmetrics_on_the_authors_example(self) -> None:
        distance = LPIPS("squeeze")
        reference, near, far = (
            read_image(SHARED / "params" / "lpips" / f"ex_{name}.png")[None] for name in ("ref", "p1", "p0")
        )
        expected = learned_perceptual_image_patch_similarity(
            torch.cat([near, far]), reference.repeat(2, 1, 1, 1), "squeeze", normalize=True, reduction="none"
        )
        found = distance(torch.cat([near, far]), reference.repeat(2, 1, 1, 1))
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert found[0] < found[1]

    def test_gradients_reach_the_images_only(self) -> None:
        distance = LPIPS("squeeze").train()
        x = torch.rand(2, 3, 40, 40, requires_grad=True)
        distance(x, torch.rand(2, 3, 40, 40)).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
        assert not distance.training
        assert not any(p.requires_grad for p in distance.parameters())
        assert not any(module.training for module in distance.modules())

    def test_weights_are_float32(self) -> None:
        assert {p.dtype for p in LPIPS("squeeze").parameters()} == {torch.float32}  # also where the file is float16

    def test_autocast_does_not_reach_it(self) -> None:
        distance, (x, y) = LPIPS("squeeze"), torch.rand(2, 1, 3, 64, 64)
        with torch.autocast("cpu", torch.bfloat16):
            found = distance(x, y.bfloat16())
        assert found.dtype == torch.float32
        assert torch.equal(found, distance(x, y.bfloat16().float()))

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 17 pixels"):
            LPIPS("squeeze")(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))

    def test_is_chosen_where_it_can_be_had(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert perceptual_distance().name == "lpips_squeeze"
        assert "LPIPS-squeeze" in caplog.text

    def test_knows_its_files(self) -> None:
        backbone, heads = LPIPS("squeeze").weight_files
        assert backbone == lpips_weights("squeeze")
        assert heads.name == "squeeze.pth"
        assert heads.is_file()

    def test_building_draws_no_random_numbers(self) -> None:
        before = torch.get_rng_state()
        LPIPS("squeeze")
        assert torch.equal(before, torch.get_rng_state())


def test_missing_weights_are_named_at_once(no_torch_home: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        LPIPS("vgg")
    assert time.perf_counter() - start < 1.0
    for expected in ("vgg16-397923af.pth", str(no_torch_home), "TORCH_HOME", "https://"):
        assert expected in str(error.value)


def generated(net: str, path: Path) -> Path:
    """A backbone in torchvision's file format, in half precision as some keep it."""
    backbone = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}[net](weights=None)
    state = {key: value.half() for key, value in backbone.state_dict().items() if key.startswith("features.")}
    torch.save(state, path)
    return path


def test_download_happens_only_on_request(no_torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = generated("alex", no_torch_home / "source.pth")
    file = replace(ALEXNET, url=source.as_uri(), sha256=file_hash(source))
    monkeypatch.setitem(perceptual._FILES, "alex", file)
    with pytest.raises(MissingWeightsError):
        LPIPS("alex")
    place = no_torch_home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert LPIPS("alex", download=True).weight_files[0] == place == lpips_weights("alex")
    assert LPIPS("alex").weight_files[0] == place


@pytest.mark.slow
@pytest.mark.usefixtures("no_torch_home")
@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_weights_may_lie_in_a_folder_of_ones_own(tmp_path: Path, net: Literal["alex", "squeeze"]) -> None:
    folder = tmp_path / "mine" / "checkpoints"
    folder.mkdir(parents=True)
    path = generated(net, folder / lpips_weights(net).name)
    with weight_search_path(tmp_path / "mine"):
        found = LPIPS(net)
        assert lpips_weights(net) == path
        assert perceptual_distance(net).name == f"lpips_{net}"
    assert found.weight_files[0] == LPIPS(net, weights=path).weight_files[0] == path
    x, y = torch.rand(3, 3, 40, 50), torch.rand(3, 3, 40, 50)
    metric = PerceptualMetric(found)
    assert metric.weight_files == found.weight_files
    assert net in metric.definition
    single = torch.cat([metric.values(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert metric.values(x, y).tolist() == pytest.approx(single.tolist(), abs=1e-6)


@pytest.mark.usefixtures("no_torch_home")
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = generated("alex", tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"torchvision's .*weights\.pth.*missing features\.3\.squeeze\.weight"):
        LPIPS("squeeze", weights=path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"weights\.pth.*cannot be read"):
        LPIPS("alex", weights=path)


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match=r"alex.*squeeze.*vgg"):
        lpips_weights("resnet")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_torch_home")
def test_stand_in_is_named_as_such(caplog: pytest.LogCaptureFixture) -> None:
    distance = perceptual_distance()
    assert isinstance(distance, TextureDistance)
    assert distance.name == "texture_distance"
    assert "not LPIPS" in caplog.text


class Absolute(PerceptualDistance):
    """Mean absolute difference, with a weight that must stay out of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    @property
    def name(self) -> str:
        return "absolute"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.weight * (x - y).abs().mean(dim=(1, 2, 3))


def test_metric_is_a_mean_over_images_and_shares_its_network() -> None:
    distance = Absolute()
    metric = PerceptualMetric(distance)
    x, y = torch.rand(3, 3, 12, 12), torch.rand(3, 3, 12, 12)
    metric.update(x[:1], y[:1])
    metric.update(x[1:], y[1:])
    x, y = (x * 255).round() / 255, (y * 255).round() / 255
    assert metric.compute().item() == pytest.approx((x - y).abs().mean().item(), abs=1e-7)
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    assert not distance.weight.requires_grad
    assert metric.clone().distance.network is distance
    assert metric.higher_is_better is False
    assert metric.needs_reference
    assert metric.weight_files == ()


def test_bad_images_are_refused() -> None:
    metric, x = PerceptualMetric(Absolute()), torch.rand(3, 3, 12, 12)
    bad = x.clone()
    bad[1, 0, 0, 0] = torch.inf  # rounding to 8 bits would hide it
    with pytest.raises(ValueError, match=r"`restored` is not finite for image \[1\]"):
        metric.update(bad, x)
    with pytest.raises(ValueError, match=r"`gt` is not finite for image \[1\]"):
        metric.update(x, bad)
    with pytest.raises(ValueError, match="compares images with their ground truth"):
        metric.update(x)
    assert metric.count == 0


def test_module_imports_no_lightning() -> None:
    assert not any(name.startswith("lightning") for name in vars(perceptual))
