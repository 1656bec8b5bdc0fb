"""DISTS, a perceptual distance that tolerates resampled texture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.perceptual import load_features
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.weights.published import VGG16
from ctsr_lightning.weights.search import find_weights


class DISTS(PerceptualDistance):
    """DISTS (Ding et al. 2020, equations 5 to 8) by torchmetrics, with the authors' weights of its terms.

    Images are compared at their own size, as the field's tables do.

    Args:
        weights: torchvision's VGG-16 file; null searches `weight_search_path` and torch.hub's folder.

    Raises:
        MissingWeightsError: If the file is nowhere.
        ValueError: If it is damaged or that of another network.
    """

    definition = "DISTS (Ding et al. 2020) by torchmetrics, backbone VGG-16, images not resized"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = find_weights(weights or VGG16)
        from torchmetrics.functional.image import dists

        with patched_constructor(dists, "vgg16", _untrained):
            self.distance = dists.DISTSNetwork()
        self.distance.eval().requires_grad_(False)
        stages = {name: stage for name, stage in self.distance.named_children() if name.startswith("stage")}
        load_features(nn.ModuleDict(stages), path)
        self.weight_files = (path, dists._PATH_WEIGHT_DISTS)

    @property
    def name(self) -> str:
        """`dists`."""
        return "dists"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """DISTS of each pair, shape (B,).

        Args:
            x: Images in [0, 1], shape (B, 3, H, W).
            y: Images in [0, 1], same shape.
        """
        distance: Tensor = self.distance(x, y, require_grad=True)  # else inference tensors, useless as a loss
        return distance.flatten()


def _untrained(**_: Any) -> Any:
    """The convolutions of VGG-16, in place of torchvision's function, which would download them."""
    from torchvision.models.vgg import cfgs, make_layers

    return SimpleNamespace(features=make_layers(cfgs["D"]))
