"""Images as the bytes of a file that browsers show, without metadata."""

from __future__ import annotations

import io
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from ctsr_lightning.images.profiles import color_space
from ctsr_lightning.images.tensors import to_uint8


def encode_image(image: Tensor, kind: Literal["png", "jpeg"], profile: bytes | None = None) -> bytes:
    """Encode an image with 8 bits per channel.

    Args:
        image: RGB in [0, 1], shape (3, H, W).
        kind: PNG, exact and compressed lightly, or JPEG of quality 92 with full colour resolution.
        profile: The colour profile that the pixels are in; one that is not for RGB is left out.
    """
    file = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 1} if kind == "png" else {"quality": 92, "subsampling": 0}
    if profile is not None and color_space(profile) == "RGB":
        options["icc_profile"] = profile
    Image.fromarray(to_uint8(image)).save(file, kind.upper(), **options)
    return file.getvalue()
