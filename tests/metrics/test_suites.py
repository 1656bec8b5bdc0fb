"""Which metrics a collection holds, and their directions."""

import pytest
import torch
from torch import Tensor

from ctsr_lightning.metrics.distortion import PSNRY
from ctsr_lightning.metrics.frechet import FeatureNetwork
from ctsr_lightning.metrics.perceptual import PerceptualDistance
from ctsr_lightning.metrics.suites import higher_is_better, restoration_metrics


class Squared(PerceptualDistance):
    @property
    def name(self) -> str:
        return "squared"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean(dim=(1, 2, 3))


class Means(FeatureNetwork):
    @property
    def name(self) -> str:
        return "means"

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_defaults_and_additions() -> None:
    suite = restoration_metrics(perceptual=Squared(), fid=Means())
    assert higher_is_better(suite) == {"psnr_y": True, "ssim_y": True, "squared": False, "fid_means": False}
    suite.update(torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16))
    assert set(suite.compute()) == {"psnr_y", "ssim_y", "squared", "fid_means"}
    assert all(value.dtype == torch.float64 for value in suite.compute().values())


def test_own_metrics_replace_the_defaults() -> None:
    assert set(restoration_metrics({"mine": PSNRY()}, Squared())) == {"mine", "squared"}


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="Two metrics are called 'squared'"):
        restoration_metrics({"squared": PSNRY()}, Squared())
    with pytest.raises(ValueError, match="at least one metric"):
        restoration_metrics({})
