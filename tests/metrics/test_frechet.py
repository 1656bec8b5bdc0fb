"""The Fréchet distance against NumPy and SciPy."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.frechet import (
    FeatureNetwork,
    FrechetDistance,
    InceptionFeatureNetwork,
)


class Colours(FeatureNetwork):
    """Means and deviations of the colour channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    @property
    def name(self) -> str:
        return "colours"

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def images(seed: int, count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator) ** (1 + seed)


def oracle(x: Tensor, y: Tensor) -> float:
    a, b = (Colours()(quantize(i)).detach().double().numpy() for i in (x, y))
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c_a @ c_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root))


def test_equals_the_oracle_in_any_batching() -> None:
    x, y = images(0), images(1)
    whole, parts = FrechetDistance(Colours()), FrechetDistance(Colours())
    whole.update(x, y)
    for i in range(0, 20, 3):
        parts.update(x[i : i + 3], y[i : i + 3])
    assert whole.compute().dtype == torch.float64
    assert whole.compute().item() == pytest.approx(oracle(x, y), rel=1e-6)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)


def test_name_direction_and_state() -> None:
    network = Colours()
    metric = FrechetDistance(network)
    assert metric.name == "fid_colours"
    assert metric.higher_is_better is False
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    assert metric.clone().inception.network is network


def test_equal_sets_are_at_distance_zero() -> None:
    metric = FrechetDistance(Colours())
    metric.update(images(2), images(2))
    assert metric.compute().item() == pytest.approx(0.0, abs=1e-6)


def test_one_image_has_no_covariance() -> None:
    metric = FrechetDistance(Colours())
    metric.update(images(0, 1), images(1, 1))
    assert metric.compute().isnan()


def test_inception_is_never_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d\.pth.*https://"):
        InceptionFeatureNetwork()
