"""Photographs into networks and out again: grey stays grey, transparency goes beside the colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ctsr_lightning.images import Picture, fill_transparent, resize_bicubic


@dataclass(frozen=True)
class Photo:
    """A photograph and what of it a network sees.

    Args:
        picture: The photograph as read.
        colours: RGB in [0, 1], shape (3, h, w), filled in where nothing is seen.
    """

    picture: Picture
    colours: Tensor

    @classmethod
    def of(cls, picture: Picture) -> Photo:
        """The photo of a picture.

        Args:
            picture: The photograph as read.
        """
        alpha = picture.alpha
        return cls(picture, picture.colours if alpha is None else fill_transparent(picture.colours, alpha))

    @cached_property
    def colourless(self) -> bool:
        """Whether it is grey, whatever its file's mode."""
        return bool((self.colours == self.colours[:1]).all())

    def restored(self, image: Tensor) -> Picture:
        """The picture with restored colours: without a tint if it had no colours, its transparency resized.

        Args:
            image: RGB in [0, 1], shape (3, H, W); of a photo with colours also levels of 8 bits.
        """
        alpha, size = self.picture.alpha, tuple(image.shape[-2:])
        if alpha is not None and tuple(alpha.shape[-2:]) != size:
            alpha = resize_bicubic(alpha[None], size)[0]
        if self.colourless:  # networks tint a little
            image = image.mean(dim=0, keepdim=True).expand_as(image)
        return replace(self.picture, colours=image, alpha=alpha)
