"""Perceptual distances: differentiable, frozen, used as loss and as metric alike, and never downloaded unasked."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.metrics.base import ImageMean
from ctsr_lightning.networks.frozen import Frozen

_log = logging.getLogger(__name__)

Backbone = Literal["alex", "vgg", "squeeze"]
"""Backbones that LPIPS v0.1 has calibrated heads for."""

_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels; below, a pooling layer has nothing left


class PerceptualDistance(nn.Module, ABC):
    """A distance between images that follows appearance rather than pixels; smaller is more alike.

    It is frozen and always in evaluation mode; gradients flow to the images.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the distance in results, for example `lpips_squeeze`."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair, shape (B,).

        Args:
            x: Images in [0, 1], shape (B, 3, H, W).
            y: Images in [0, 1], same shape.
        """

    def train(self, mode: bool = True) -> PerceptualDistance:  # noqa: ARG002
        """Stay in evaluation mode, whatever is asked."""
        super().train(False)
        return self


class LPIPS(PerceptualDistance):
    """LPIPS v0.1 (Zhang et al. 2018) with its calibrated heads, by the `lpips` package.

    The backbone's ImageNet weights are torchvision's file, looked up in the `checkpoints` folder of `torch.hub`
    (`TORCH_HOME`) before anything is built.

    Args:
        net: The backbone.
        download: Let torch.hub fetch the backbone's weights if they are not on disk.

    Raises:
        FileNotFoundError: If the weights are not on disk and `download` is off.
    """

    def __init__(self, net: Backbone = "squeeze", download: bool = False) -> None:
        super().__init__()
        self.net: Backbone = net
        path = lpips_weights(net)
        if not path.is_file() and not download:
            raise FileNotFoundError(_missing(net, path))
        self.distance = _build_lpips(net, path).eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """`lpips_` and the backbone."""
        return f"lpips_{self.net}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS of each pair, shape (B,).

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
        distance: Tensor = self.distance(x, y, normalize=True)
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
    from ctsr_lightning.metrics.texture import TextureDistance

    distance = TextureDistance()
    _log.warning(
        "Perceptual distance: %s, because LPIPS-%s's backbone is not at '%s'. Its values are not LPIPS.",
        distance.name,
        net,
        path,
    )
    return distance


def lpips_weights(net: Backbone) -> Path:
    """Where torch.hub keeps the ImageNet weights of an LPIPS backbone, whether or not they are there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _backbone_url(net).rsplit("/", maxsplit=1)[-1]


def _backbone_url(net: Backbone) -> str:
    from torchvision import models

    weights = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    if net not in weights:
        raise ValueError(f"Expected an LPIPS backbone out of {sorted(weights)}, found {net!r}.")
    return str(weights[net].url)


def _missing(net: Backbone, path: Path) -> str:
    return (
        f"Expected the ImageNet weights of LPIPS-{net} as '{path.name}' in '{path.parent}', found nothing. "
        f"Download {_backbone_url(net)} into that folder, point TORCH_HOME to a folder that has "
        f"hub/checkpoints/{path.name}, or allow `download`."
    )


def _build_lpips(net: Backbone, path: Path) -> nn.Module:
    import lpips

    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
    else:
        state = torch.hub.load_state_dict_from_url(_backbone_url(net), map_location="cpu", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips still calls torchvision with `pretrained=False`
        with torch.random.fork_rng(devices=[]):  # the random initialisation is overwritten below
            network: nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for name, parameter in network.get_submodule("net").named_parameters():
        layer = name.split(".", maxsplit=1)[1]  # `slice3.5.weight` is torchvision's `features.5.weight`
        parameter.data.copy_(state[f"features.{layer}"])  # the file may be float16
    return network
