"""Fréchet distance between sets of images, with a feature network of the user's choice in its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics import Metric

from ctsr_lightning.images import quantize
from ctsr_lightning.metrics.base import require_finite
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.weights.published import CLEAN_INCEPTION, INCEPTION
from ctsr_lightning.weights.reading import load_strictly, read_state_dict
from ctsr_lightning.weights.search import find_weights

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
        weights: The weight file; null searches `weight_search_path` and torch.hub's folder.

    Raises:
        MissingWeightsError: If the file is nowhere.
        ValueError: If it is damaged or holds code.
    """

    definition = "Inception-v3 by torch-fidelity, pool features, TensorFlow 1's bilinear resizing to 299 pixels"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = find_weights(weights or INCEPTION)
        read_state_dict(path)  # refuses code; torch-fidelity itself would run it
        with patched_constructor():
            self.inception = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
            ).eval()
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
        features: Tensor = self.inception(images.mul(255.0).round().byte())[0]
        return features


class CleanInceptionFeatures(FeatureNetwork):
    """The 2048 features behind the field's FID tables: clean-fid's resizing (Parmar et al. 2022), by pyiqa's network.

    The network is for non-commercial use, as pyiqa is.

    Args:
        weights: The weight file; null searches `weight_search_path` and torch.hub's folder.

    Raises:
        MissingWeightsError: If the file is nowhere.
        ValueError: If it is damaged or that of another network.
    """

    definition = "Inception-v3 by pyiqa, pool features, clean-fid's antialiased bicubic resizing to 299 pixels"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = find_weights(weights or CLEAN_INCEPTION)
        state = read_state_dict(path)
        with patched_constructor():
            from pyiqa.archs import inception

        def load(network: nn.Module, _: Any) -> None:
            load_strictly(network, state, path)

        with patched_constructor(inception, "load_pretrained_network", load):
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

    ||m_1 - m_2||^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), means and covariances accumulated in float64 and summed over
    processes. Biased for few images: compare it only between equal numbers of images.

    Args:
        features: The feature network; shared by copies and absent from state dicts.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    needs_reference = True
    restored_sum: Tensor
    restored_products: Tensor
    restored_count: Tensor
    gt_sum: Tensor
    gt_products: Tensor
    gt_count: Tensor

    def __init__(self, features: FeatureNetwork) -> None:
        super().__init__()
        self.features = Frozen(features)
        self.name = f"fid_{features.name}"
        self.definition = f"Fréchet distance between feature distributions: {features.definition or features.name}"
        self.weight_files = features.weight_files
        with torch.no_grad():
            length = features(torch.zeros(1, 3, 64, 64)).shape[1]
        for images in ("restored", "gt"):
            self.add_state(f"{images}_sum", torch.zeros(length, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{images}_products", torch.zeros(length, length, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{images}_count", torch.tensor(0), dist_reduce_fx="sum")

    def extract(self, images: Tensor) -> Tensor:
        """Feature vectors of images rounded to 8 bits, float64, shape (B, D).

        Args:
            images: Images in [0, 1], shape (B, 3, H, W).

        Raises:
            ValueError: If an image holds NaN or infinity.
        """
        require_finite(self.name, image=images)
        with torch.no_grad():
            vectors: Tensor = self.features(quantize(images.float())).double()
        return vectors

    def update(self, restored: Tensor, gt: Tensor, *, extracted: bool = False) -> None:
        """Add a batch.

        Args:
            restored: Restored images in [0, 1], shape (B, 3, H, W).
            gt: Ground truth, images in [0, 1].
            extracted: Both are feature vectors of `extract` instead.

        Raises:
            ValueError: If an image holds NaN or infinity; nothing is added then.
        """
        if not extracted:
            require_finite(self.name, restored=restored, gt=gt)
        vectors, references = (restored, gt) if extracted else (self.extract(restored), self.extract(gt))
        self.restored_sum += vectors.sum(dim=0)
        self.restored_products += vectors.T @ vectors
        self.restored_count += len(vectors)
        self.gt_sum += references.sum(dim=0)
        self.gt_products += references.T @ references
        self.gt_count += len(references)

    def compute(self) -> Tensor:
        """Distance over all images, float64; NaN for fewer than two images, which have no covariance."""
        if min(self.restored_count, self.gt_count) < 2:
            return self.gt_sum.new_full((), torch.nan)
        mean_1, covariance_1 = _moments(self.restored_sum, self.restored_products, self.restored_count)
        mean_2, covariance_2 = _moments(self.gt_sum, self.gt_products, self.gt_count)
        traces = covariance_1.trace() + covariance_2.trace()
        return (mean_1 - mean_2).square().sum() + traces - 2.0 * _trace_of_root(covariance_1, covariance_2)


def _moments(total: Tensor, products: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, shape (D,), and covariance, shape (D, D), from the sums over `count` vectors."""
    mean = (total / count).flatten()
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
