"""Feature maps of DINO, for discriminators."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.networks.discriminator import FeatureMaps, normalized

MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
QUARTERS: Final = 4
"""Maps are taken before the first block and after every quarter of the blocks."""


class DinoMaps(FeatureMaps):
    """Token maps of a vision transformer, DINO ViT-S/16 in AddSR and CCSR v2: five maps, each token plus the CLS token.

    Images are resized to the transformer's size by area.

    Args:
        path: A folder in transformers' layout, such as a copy of `facebook/dino-vits16`; nothing is downloaded.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its blocks cannot be divided into quarters.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        from transformers import ViTModel

        folder = Path(path).expanduser()
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"Expected DINO in transformers' layout in '{folder}', found no config.json there. Download "
                "facebook/dino-vits16 into it, or name its folder (CTSR_DINO)."
            )
        self.network = ViTModel.from_pretrained(str(folder), local_files_only=True, add_pooling_layer=False)
        config = self.network.config
        if config.num_hidden_layers % QUARTERS:
            raise ValueError(
                f"Expected a transformer of a multiple of {QUARTERS} blocks in '{folder}', found "
                f"{config.num_hidden_layers}. Name another."
            )
        self.channels = (config.hidden_size,) * (QUARTERS + 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the five maps, shape (B, C, size / patch, size / patch)."""
        config = self.network.config
        mean, deviation = (torch.tensor(v).to(images).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
        pixels = F.interpolate(images, size=(config.image_size,) * 2, mode="area")
        states = self.network((pixels - mean) / deviation, output_hidden_states=True).hidden_states
        side = config.image_size // config.patch_size
        chosen = states[:: config.num_hidden_layers // QUARTERS]
        tokens = [state[:, 1:] + state[:, :1] for state in chosen]
        return [normalized(t.transpose(1, 2).unflatten(2, (side, side))) for t in tokens]
