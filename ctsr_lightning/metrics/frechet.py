"""Fréchet distance between sets of images, with a feature network of the user's choice in its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from ctsr_lightning.images import quantize
from ctsr_lightning.networks.frozen import Frozen

_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's release v0.2.0
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION_FILE}"


class FeatureNetwork(nn.Module, ABC):
    """A network whose feature vectors a Fréchet distance compares."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the network in results."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Feature vectors, shape (B, D).

        Args:
            images: 8-bit rounded images in [0, 1], shape (B, 3, H, W).
        """


class InceptionFeatureNetwork(FeatureNetwork):
    """The 2048 features of the TensorFlow Inception-v3 that published FID values use, through torch-fidelity.

    Args:
        weights: torch-fidelity's weight file; null looks for it in the `checkpoints` folder of `torch.hub`.

    Raises:
        FileNotFoundError: If the file is not on disk; nothing is downloaded.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected Inception-v3's weights at '{path}', found nothing. Download {_INCEPTION_URL} to there, or "
                "choose another feature network."
            )
        torch.load(path, map_location="cpu", weights_only=True)  # refuses code; torch-fidelity itself would run it
        self.inception = NoTrainInceptionV3(
            name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(path)
        )

    @property
    def name(self) -> str:
        """`inception`."""
        return "inception"

    def forward(self, images: Tensor) -> Tensor:
        """Feature vectors, shape (B, 2048).

        Args:
            images: Images in [0, 1], shape (B, 3, H, W); resized to 299 x 299 inside.
        """
        features: Tensor = self.inception(images.mul(255.0).round().byte())
        return features


class FrechetDistance(FrechetInceptionDistance):
    """Fréchet distance between the features of restored images and of their ground truth.

    ||m_1 - m_2||^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), means and covariances accumulated in float64 and summed over
    processes. Biased for few images: compare it only between equal numbers of images.

    Args:
        features: The feature network; shared by copies and absent from state dicts.
    """

    def __init__(self, features: FeatureNetwork) -> None:
        with torch.random.fork_rng(devices=[]):  # the base class counts the features on a random image
            super().__init__(feature=_DoubleFeatures(features), normalize=True, input_img_size=(3, 64, 64))
        self.name = f"fid_{features.name}"
        self.orig_dtype = torch.float64  # read by compute, also in a process that saw no image

    def update(self, restored: Tensor, gt: Tensor) -> None:  # type: ignore[override]
        """Add a batch.

        Args:
            restored: Restored images in [0, 1], shape (B, 3, H, W).
            gt: Ground truth, images in [0, 1].
        """
        super().update(quantize(restored.float()), real=False)
        super().update(quantize(gt.float()), real=True)

    def compute(self) -> Tensor:
        """Distance over all images, float64; NaN for fewer than two images, which have no covariance."""
        if self.real_features_num_samples < 2:
            return self.real_features_sum.new_full((), torch.nan)
        return super().compute()


class _DoubleFeatures(Frozen[FeatureNetwork]):
    """The features in float64: torchmetrics answers in the precision of the last batch's features."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features.double()
