"""Maps of t that are painted on the page, coarser than the picture."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctsr_lightning.inference.control_map import automatic_map, fit_map
from ctsr_lightning.inference.photos import Photo

LONGEST_MAP: Final = 1024
"""Largest side of a painted map, in cells."""


class Painted(NamedTuple):
    """A map of t as painted, coarser than the picture.

    Args:
        width: Cells across.
        height: Cells down.
        data: Two bytes a cell, row by row: how much of it is faithful and how much realistic, of 255.
    """

    width: int
    height: int
    data: bytes

    def control(self, t: float, size: tuple[int, int]) -> Tensor:
        """The map of t in pixels, shape (H, W); cells that are not painted have the slider's t.

        Args:
            t: Control of what is not painted.
            size: Height and width of the restoration.

        Raises:
            ValueError: If the bytes are no such map.
        """
        cells = self.width * self.height
        if not 0 < max(self.width, self.height) <= LONGEST_MAP or len(self.data) != 2 * cells:
            raise ValueError(
                f"Expected a map of two bytes a cell and at most {LONGEST_MAP} cells a side, found {len(self.data)} "
                f"bytes for {self.width}x{self.height}. Paint it again."
            )
        planes = np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 2).transpose(2, 0, 1)
        shares = torch.from_numpy(planes.astype(np.float32) / 255)
        faithful, realistic = torch.nn.functional.interpolate(shares[None], size, mode="bilinear")[0]
        return (faithful + (1.0 - faithful - realistic).clamp(min=0.0) * t).clamp(0.0, 1.0)

    @property
    def name(self) -> str:
        """What a record says about it."""
        return f"map:{sha256(self.data).hexdigest()[:12]}"


def automatic_cells(photo: Photo, width: int, height: int) -> bytes:
    """A map to begin with: faithful at lettering and strong edges, see `automatic_map`.

    Args:
        photo: The photo.
        width: Cells across.
        height: Cells down.

    Returns:
        One byte a cell, row by row: t of 255.

    Raises:
        ValueError: If a side has no cell, or more than a painted map may have.
    """
    if not 0 < min(width, height) <= max(width, height) <= LONGEST_MAP:
        raise ValueError(f"Expected a map of 1 to {LONGEST_MAP} cells a side, found {width}x{height}.")
    control = fit_map(automatic_map(photo.colours[None]), (height, width))[0, 0]
    return control.mul(255.0).round().byte().cpu().numpy().tobytes()
