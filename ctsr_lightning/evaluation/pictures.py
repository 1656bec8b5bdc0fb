"""Images of a comparison side by side, as every method restores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ctsr_lightning.evaluation.labels import INPUT
from ctsr_lightning.evaluation.methods import Restoration
from ctsr_lightning.images import enlarge, image_grid, write_image

GAP, LETTERS = 4, 16
"""Pixels between the images, and the height of the letters above them."""


class Examples:
    """Images of a comparison: lq | bicubic | T_f | T_r | t = 0 … 1 | rivals | gt, a row each, without the blends.

    At scale 1 the low-quality image is shown once, as `input`.

    Args:
        count: Number of images.
        every: Distance between them: 1 shows the first `count` images.
        side: Side in pixels of the central crop that is shown; less where an image is smaller.
    """

    def __init__(self, count: int = 3, every: int = 1, side: int = 256) -> None:
        self.count, self.every, self.side = count, every, side
        self.rows: dict[int, dict[str, Tensor]] = {}
        """Rows by the number of their image; images in [0, 1], shape (3, h, w)."""
        self._open: dict[str, Tensor] | None = None

    def begin(self, index: int, lq: Tensor) -> None:
        """Begin the row of an image.

        Args:
            index: The image's number in the data set.
            lq: The low-quality image, RGB in [0, 1], shape (1, 3, h, w).
        """
        shown = index % self.every == 0 and index // self.every < self.count
        self._index, self._open = index, {"lq": lq} if shown else None

    def add(self, restoration: Restoration) -> None:
        """Add what a method has made of it.

        Args:
            restoration: The restoration; blends are left out.
        """
        if self._open is not None and restoration.method.kind != "blend":
            self._open[restoration.method.label] = self._shown(restoration.image)

    def end(self, gt: Tensor) -> None:
        """Complete the row.

        Args:
            gt: The ground truth, shape (1, 3, H, W).
        """
        if self._open is not None:
            lq = self._shown(enlarge(self._open.pop("lq"), gt, "nearest"))
            shown = {INPUT: lq} if INPUT in self._open else {"lq": lq}
            self.rows[self._index] = {**shown, **self._open, "gt": self._shown(gt)}
            self._open = None

    def write(self, path: Path) -> bool:
        """Write the picture, if there is an image to show.

        Args:
            path: The file.

        Returns:
            Whether there was one.
        """
        if not self.rows:
            return False
        shown = [self.rows[index] for index in sorted(self.rows)]
        height, width = (min(row["gt"].shape[dim] for row in shown) for dim in (-2, -1))
        rows = [[_centre(image, height, width) for image in row.values()] for row in shown]
        write_image(path, torch.cat([_header(list(shown[0]), width), image_grid(rows, gap=GAP)], dim=1))
        return True

    def _shown(self, image: Tensor) -> Tensor:
        return _centre(image.detach().float().cpu()[0], self.side, self.side).clone()


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of an image, or all of it where it is smaller."""
    height, width = min(height, image.shape[-2]), min(width, image.shape[-1])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _header(labels: list[str], width: int) -> Tensor:
    """The names of the columns on white, shape (3, h, W)."""
    strip = Image.new("RGB", (len(labels) * (width + GAP) - GAP, 2 * LETTERS), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(LETTERS)
    for column, label in enumerate(labels):
        draw.text((column * (width + GAP) + width / 2, LETTERS), label, "black", font, anchor="mm")
    return torch.from_numpy(np.asarray(strip).transpose(2, 0, 1) / 255.0).float()
