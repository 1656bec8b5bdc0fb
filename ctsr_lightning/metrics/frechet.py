"""Fréchet distance between sets of images, with a feature network of the user's choice in its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.image.fid import NoTrainInceptionV3

from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.base import require_finite
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.weights.published import CLEAN_INCEPTION, INCEPTION
from ctsr_lightning.weights.reading import fill, read_weights
from ctsr_lightning.weights.search import locate

_SIDE = 299  # pixels that Inception-v3 was trained on


class FeatureNetwork(nn.Module, ABC):
    """A network whose feature vectors a Fréchet distance compares."""

    definition: str = ""
    """The network and its preprocessing in one line, for the record of a result."""
    weight_files: tuple[Path, ...] = ()
    """The weight files that its features depend on."""

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
    """The 2048 features of the TensorFlow Inception-v3, with TensorFlow's resizing, through torch-fidelity.

    Args:
        weights: The weight file; null looks for it in the folders of `weight_folders` and in torch.hub's.

    Raises:
        MissingWeightsError: If the file is nowhere.
        ValueError: If it is damaged or holds code.
    """

    definition = "Inception-v3 by torch-fidelity, pool features, TensorFlow 1's bilinear resizing to 299 pixels"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = locate(INCEPTION, weights)
        read_weights(path)  # refuses code; torch-fidelity itself would run it
        with patched_constructor():
            self.inception = NoTrainInceptionV3(
                name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(path)
            )
        self.inception.use_antialias = False  # torchmetrics would smooth first, which no published value does
        self.weight_files = (path,)

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


class CleanInceptionFeatures(FeatureNetwork):
    """The 2048 features behind the field's FID tables: clean-fid's resizing (Parmar et al. 2022), by pyiqa's network.

    The network is for non-commercial use, as pyiqa is.

    Args:
        weights: The weight file; null looks for it in the folders of `weight_folders` and in torch.hub's.

    Raises:
        MissingWeightsError: If the file is nowhere.
        ValueError: If it is damaged or that of another network.
    """

    definition = "Inception-v3 by pyiqa, pool features, clean-fid's antialiased bicubic resizing to 299 pixels"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = locate(CLEAN_INCEPTION, weights)
        state = read_weights(path)
        with patched_constructor():
            from pyiqa.archs import inception
        with patched_constructor(inception, "load_pretrained_network", lambda network, _: fill(network, state, path)):
            self.inception = inception.InceptionV3().eval()
        self.weight_files = (path,)

    @property
    def name(self) -> str:
        """`inception_clean`."""
        return "inception_clean"

    def forward(self, images: Tensor) -> Tensor:
        """Feature vectors, shape (B, 2048).

        Args:
            images: Images in [0, 1], shape (B, 3, H, W); resized to 299 x 299 inside.
        """
        features: Tensor = self.inception((clean_resize(images) - 128.0) / 128.0)[0]
        return features.flatten(1)


def clean_resize(images: Tensor) -> Tensor:
    """Resize to 299 x 299 as clean-fid does: Pillow's bicubic filter in floating point, clipped to [0, 255].

    Args:
        images: 8-bit rounded images in [0, 1], shape (B, 3, H, W).

    Returns:
        Images in [0, 255].
    """
    levels = images.double().mul(255.0).round()  # Pillow's weights are float64; in float32 they differ by 1e-2 levels
    resized = F.interpolate(levels, size=(_SIDE, _SIDE), mode="bicubic", antialias=True)
    return resized.clamp(0.0, 255.0).to(images.dtype)


class FrechetDistance(Metric):
    """Fréchet distance between the features of restored images and of their ground truth.

    ‖m_1 - m_2‖² + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), means and covariances accumulated in float64 and summed over
    processes. Biased for few images: compare it only between equal numbers of images.

    Args:
        features: The feature network; shared by copies and absent from state dicts.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    needs_reference = True

    restored_count: Tensor
    gt_count: Tensor

    def __init__(self, features: FeatureNetwork) -> None:
        super().__init__()
        self.features = Frozen(features)
        with torch.no_grad():
            size = features(torch.zeros(1, 3, 64, 64)).shape[1]
        for side in ("restored", "gt"):
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_products", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")
        self.name = f"fid_{features.name}"
        self.definition = f"Fréchet distance between feature distributions: {features.definition or features.name}"
        self.weight_files = features.weight_files

    @torch.no_grad()
    def update(self, restored: Tensor, gt: Tensor) -> None:
        """Add a batch.

        Args:
            restored: Restored images in [0, 1], shape (B, 3, H, W).
            gt: Ground truth, images in [0, 1].

        Raises:
            ValueError: If an image holds NaN or infinity; nothing is added then.
        """
        require_finite(self.name, restored=restored, gt=gt)
        for side, images in (("restored", restored), ("gt", gt)):
            features = self.features(quantize(images.float())).double()
            getattr(self, f"{side}_count").add_(len(features))
            getattr(self, f"{side}_sum").add_(features.sum(dim=0))
            getattr(self, f"{side}_products").add_(features.T @ features)

    def compute(self) -> Tensor:
        """Distance over all images, float64; NaN for fewer than two images, which have no covariance."""
        if min(self.restored_count, self.gt_count) < 2:
            return self.restored_count.new_full((), torch.nan, dtype=torch.float64)
        (mean_1, covariance_1), (mean_2, covariance_2) = self._moments("restored"), self._moments("gt")
        traces = covariance_1.trace() + covariance_2.trace()
        return (mean_1 - mean_2).square().sum() + traces - 2.0 * _trace_of_root(covariance_1, covariance_2)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        """Mean, shape (D,), and covariance, shape (D, D), from the sums over a side's images."""
        total, products, count = (getattr(self, f"{side}_{name}") for name in ("sum", "products", "count"))
        mean = total / count
        return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """Trace of (A B)^(1/2) for covariances A and B.

    With A = R R^T it is that of (R^T B R)^(1/2), which is symmetric. Fewer images than features leave most
    eigenvalues zero; those that rounding makes of them are dropped, as their roots would add up to an error of some
    parts per million, which the root of A B itself has.
    """
    values, vectors = torch.linalg.eigh(a)
    root = vectors * _without_rounding(values).sqrt()
    return _without_rounding(torch.linalg.eigvalsh(root.T @ b @ root)).sqrt().sum()


def _without_rounding(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a positive semidefinite matrix, those within rounding of zero set to zero."""
    tolerance = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return torch.where(eigenvalues > tolerance, eigenvalues, 0.0)
