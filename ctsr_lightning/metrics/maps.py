"""Feature maps for discriminators: of texture, without weights, and of LPIPS's backbone."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.metrics.perceptual import LPIPS, lpips_weights
from ctsr_lightning.metrics.texture import SCALES, responses
from ctsr_lightning.networks.discriminator import FeatureMaps, normalized

KNEE = 0.1
"""Second difference, for images in [-1, 1], that `TextureMaps` brings to one half."""

_log = logging.getLogger(__name__)


class TextureMaps(FeatureMaps):
    """Second differences r along both axes at scales 1, 2 and 4, as r / (|r| + 0.1); no weights."""

    channels = (6,) * len(SCALES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute three maps (B, 6, H / s, W / s), values in (-1, 1)."""
        return [F.softsign(found / KNEE) for found in responses(images)]


class SqueezeMaps(FeatureMaps):
    """The seven maps of SqueezeNet that LPIPS compares, each of root mean square 1 over channels.

    Raises:
        MissingWeightsError: If SqueezeNet's weights are not on disk.
    """

    channels = (64, 128, 256, 384, 384, 512, 512)

    def __init__(self) -> None:
        super().__init__()
        lpips = LPIPS("squeeze").distance
        self.scaling, self.network = lpips.get_submodule("scaling_layer"), lpips.get_submodule("net")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps, H / 2 to H / 16."""
        with torch.autocast(images.device.type, enabled=False):
            return [normalized(found) for found in self.network(self.scaling(images * 2.0 - 1.0))]


def feature_maps() -> FeatureMaps:
    """`SqueezeMaps` where the weights are on disk, else `TextureMaps`; the log says which."""
    path = lpips_weights("squeeze")
    maps = SqueezeMaps() if path.is_file() else TextureMaps()
    _log.info("The discriminator sees %s.", type(maps).__name__)
    return maps
