"""LPIPS against torchmetrics, the stand-in against its definition, and what happens without weights."""

import logging
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from ctsr_lightning.images import read_image
from ctsr_lightning.metrics import perceptual
from ctsr_lightning.metrics.perceptual import (
    LPIPS,
    PerceptualDistance,
    PerceptualMetric,
    lpips_weights,
    perceptual_distance,
)
from ctsr_lightning.metrics.texture import TextureDistance

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "torch_home").is_dir(), reason="no LPIPS weights on this machine")


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(SHARED / "torch_home"))


@pytest.fixture
def no_torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("went to the network"))
    return tmp_path


@needs_shared
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

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 17 pixels"):
            LPIPS("squeeze")(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))

    def test_is_chosen_where_it_can_be_had(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert perceptual_distance().name == "lpips_squeeze"
        assert "LPIPS-squeeze" in caplog.text

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


@pytest.mark.usefixtures("no_torch_home")
def test_download_happens_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def fetch(url: str, **_: object) -> None:
        raise Asked(url)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    with pytest.raises(Asked, match="alexnet"):
        LPIPS("alex", download=True)


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


def test_module_imports_no_lightning() -> None:
    assert not any(name.startswith("lightning") for name in vars(perceptual))
