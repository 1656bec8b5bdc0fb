"""Teachers as restorers of images of any size, and the blend of two of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from ctsr_lightning.images import pad_to_multiple
from ctsr_lightning.inference.precision import HALF, inference_precision
from ctsr_lightning.inference.tiling import Window, windows
from ctsr_lightning.inference.tiling import blend as blend_tiles
from ctsr_lightning.inference.trajectory import RestorationError, checked_images
from ctsr_lightning.teachers.base import Teacher


class Expert:
    """A teacher that restores images of any size, as `Restorer` does for students.

    Args:
        teacher: The teacher.
        device: Where to compute.
        dtype: Type to compute in; half types run under autocast.
        tile: Side of a tile in pixels of the input, 0 never tiles.
    """

    def __init__(
        self, teacher: Teacher, device: torch.device, dtype: torch.dtype = torch.float32, tile: int = 0
    ) -> None:
        self.device, self.dtype, self.tile = device, dtype, tile
        self._storage = torch.float32 if dtype in HALF else dtype
        self.teacher = teacher.to(device, self._storage).eval()

    @property
    def scale(self) -> int:
        """Enlargement."""
        return self.teacher.scale

    @torch.no_grad()
    def __call__(self, lq: Tensor, seed: int = 0, keys: list[str] | None = None) -> Tensor:
        """Restore images; the same seed gives the same bits on one device with as many threads.

        Args:
            lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).
            seed: Seed of what the teacher draws, if it draws anything: for every tile by the tile's content, so that
                overlapping tiles average what they have drawn.
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            RGB in [0, 1], shape (B, 3, scale * h, scale * w).

        Raises:
            ValueError: If the images are no such images.
            RestorationError: If the result is not finite.
        """
        images = checked_images(lq).to(self.device, self._storage)
        size = (images.shape[-2] * self.scale, images.shape[-1] * self.scale)
        unit = self.teacher.multiple // math.gcd(self.teacher.multiple, self.scale)
        padded = pad_to_multiple(images, unit, least=2)
        cover = windows(padded.shape[-2], padded.shape[-1], self.tile, unit)

        def restored(window: Window) -> Tensor:
            return self.teacher.restore(window.crop(padded), keys).to(self._storage)

        self.teacher.seed = seed
        with inference_precision(self.device, self.dtype, seed):
            image = blend_tiles(cover, restored, Fraction(self.scale))
        if not bool(torch.isfinite(image).all()):
            raise RestorationError(f"{type(self.teacher).__name__} produced NaN or infinite pixels.")
        return image[..., : size[0], : size[1]].clamp(0.0, 1.0)


def blends(faithful: Tensor, realistic: Tensor, alphas: list[float]) -> Iterator[Tensor]:
    """Image-space blends α T_f + (1 - α) T_r, the baseline of the paper's Table 1.

    Args:
        faithful: T_f's restoration, shape (B, 3, H, W).
        realistic: T_r's restoration of the same images.
        alphas: Shares of T_f in [0, 1].
    """
    for alpha in alphas:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"Expected a share alpha of T_f in [0, 1], found {alpha}.")
        yield faithful if alpha == 1.0 else realistic if alpha == 0.0 else realistic.lerp(faithful, alpha)
