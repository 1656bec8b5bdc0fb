"""Photos below the size of a crop."""

from __future__ import annotations

from typing import cast

import numpy as np

from ctsr_lightning.data.files import to_tensor
from ctsr_lightning.images import Pixels, resize_bicubic, to_uint8


def fitted(pixels: Pixels, least: int, min_side: str) -> Pixels:
    """Bring a photo to a least size, if it is below it.

    Args:
        pixels: uint8, or float32 in [0, 1], shape (H, W, 3).
        least: Least height and width in pixels.
        min_side: `enlarge` scales the shorter side up to `least` (bicubic, a = -0.5); `pad` reflects at the right and
            below, again and again where a side is short, as Real-ESRGAN's paired crops do; `skip` changes nothing.

    Returns:
        The photo in the type that it had.
    """
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short >= least or min_side == "skip":
        return pixels
    if min_side == "pad":
        below, right = max(0, least - height), max(0, least - width)
        return cast("Pixels", np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect"))
    size = [max(least, round(side * least / short)) for side in (height, width)]
    large = resize_bicubic(to_tensor(pixels)[None], size)[0]
    return to_uint8(large) if pixels.dtype == np.uint8 else large.permute(1, 2, 0).numpy()
