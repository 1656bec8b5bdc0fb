"""Perceptual distances: differentiable, frozen, used as loss and as metric alike, and never downloaded unasked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.metrics.base import ImageMean, PerceptualDistance
from ctsr_lightning.metrics.texture import TextureDistance
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.weights.published import ALEXNET, SQUEEZENET, VGG16, WeightFile
from ctsr_lightning.weights.reading import load_strictly, read_state_dict
from ctsr_lightning.weights.search import find_published, find_weights, weight_search_path

_log = logging.getLogger(__name__)

Backbone = Literal["alex", "vgg", "squeeze"]
"""Backbones that LPIPS v0.1 has calibrated heads for."""

_FILES = {"alex": ALEXNET, "vgg": VGG16, "squeeze": SQUEEZENET}
_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels; below, a pooling layer has nothing left


class LPIPS(PerceptualDistance):
    """LPIPS v0.1 (Zhang et al. 2018) with its calibrated heads, by the `lpips` package.

    Args:
        net: The backbone; its ImageNet weights are torchvision's file.
        download: Fetch that file if it is nowhere.
        weights: Path of that file; null searches `weight_search_path` and torch.hub's folder.

    Raises:
        MissingWeightsError: If the file is nowhere, or cannot be fetched.
        ValueError: If it is damaged or that of another network.
    """

    def __init__(self, net: Backbone = "squeeze", download: bool = False, weights: str | Path | None = None) -> None:
        super().__init__()
        self.net: Backbone = net
        with weight_search_path(download=download):
            path = find_weights(weights or _file(net))
        self.distance = _build_lpips(net, path).eval().requires_grad_(False)
        self.weight_files = (path, _heads(net))
        self.definition = f"LPIPS v0.1 (Zhang et al. 2018) by the lpips package, backbone {net}, calibrated heads"

    @property
    def name(self) -> str:
        """`lpips_` and the backbone."""
        return f"lpips_{self.net}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of each pair, shape (B,); in float32 also under autocast, where half precision would turn its gradient.

        Args:
            x: Images in [0, 1], shape (B, 3, H, W).
            y: Images in [0, 1], same shape.

        Raises:
            ValueError: If the images are too small for the backbone.
        """
        if min(x.shape[-2:]) < _SMALLEST[self.net]:
            raise ValueError(
                f"Expected images of at least {_SMALLEST[self.net]} pixels a side, found {tuple(x.shape)}."
            )
        with torch.autocast(x.device.type, enabled=False):
            distance: Tensor = self.distance(at_least_float32(x), at_least_float32(y), normalize=True)
        return distance.flatten()


class PerceptualMetric(ImageMean):
    """Mean over images of a perceptual distance, which is shared by copies and absent from state dicts.

    Args:
        distance: The distance.
    """

    higher_is_better = False

    def __init__(self, distance: PerceptualDistance) -> None:
        super().__init__()
        self.distance = Frozen(distance)
        self.definition = distance.definition
        self.weight_files = distance.weight_files

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Distance of each image from its ground truth."""
        with torch.no_grad():
            distance: Tensor = self.distance(restored, gt)
        return distance


def perceptual_distance(net: Backbone = "squeeze") -> PerceptualDistance:
    """LPIPS where its backbone's weights are on disk, else the stand-in `TextureDistance`; the log says which.

    Args:
        net: LPIPS backbone to look for.
    """
    path = lpips_weights(net)
    if path.is_file():
        _log.info("Perceptual distance: LPIPS-%s, backbone '%s'.", net, path)
        return LPIPS(net)
    distance = TextureDistance()
    _log.warning(
        "Perceptual distance: %s, because LPIPS-%s's backbone is not at '%s'. Its values are not LPIPS.",
        distance.name,
        net,
        path,
    )
    return distance


def lpips_weights(net: Backbone) -> Path:
    """Where the ImageNet weights of an LPIPS backbone are, or where they would be expected."""
    file = _file(net)
    return find_published(file) or file.place()


def load_features(network: nn.Module, weights: Path) -> None:
    """Load the convolutions of torchvision's classifier into a backbone that is cut into slices.

    Args:
        network: The backbone: its `slice3.5.weight` is torchvision's `features.5.weight`.
        weights: torchvision's file, perhaps in half precision.

    Raises:
        ValueError: If the file is damaged or that of another network.
    """
    load_strictly(
        network,
        {name: value for name, value in read_state_dict(weights).items() if name.startswith("features.")},
        weights,
        names={name: f"features.{name.split('.', maxsplit=1)[1]}" for name, _ in network.named_parameters()},
        expected="the features of torchvision's network",
        remedy="Download torchvision's file for this backbone again.",
    )


def _file(net: Backbone) -> WeightFile:
    if net not in _FILES:
        raise ValueError(f"Expected an LPIPS backbone out of {sorted(_FILES)}, found {net!r}.")
    return _FILES[net]


def _heads(net: Backbone) -> Path:
    import lpips

    return Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"


def _build_lpips(net: Backbone, path: Path) -> nn.Module:
    import lpips

    with patched_constructor():
        network: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    load_features(network.get_submodule("net"), path)
    return network
