"""Image files and images as tensors: reading, colour profiles, writing, and the only place that rounds."""

from __future__ import annotations

from ctsr_lightning.images.alpha import fill_transparent, over_white
from ctsr_lightning.images.encoding import encode_image
from ctsr_lightning.images.listing import IMAGE_SUFFIXES, list_images
from ctsr_lightning.images.metadata import Metadata, read_record
from ctsr_lightning.images.reading import (
    Picture,
    Pixels,
    UnreadableImageError,
    image_kind,
    image_size,
    read_image,
    read_picture,
    read_pixels,
)
from ctsr_lightning.images.tensors import (
    InterpolationMode,
    content_key,
    enlarge,
    image_grid,
    pad_to_multiple,
    quantize,
    resize_bicubic,
    rgb_to_y,
    to_levels,
    to_uint8,
    upsample,
)
from ctsr_lightning.images.writing import check_size, write_image, write_picture

__all__ = [
    "IMAGE_SUFFIXES",
    "InterpolationMode",
    "Metadata",
    "Picture",
    "Pixels",
    "UnreadableImageError",
    "check_size",
    "content_key",
    "encode_image",
    "enlarge",
    "fill_transparent",
    "image_grid",
    "image_kind",
    "image_size",
    "list_images",
    "over_white",
    "pad_to_multiple",
    "quantize",
    "read_image",
    "read_picture",
    "read_pixels",
    "read_record",
    "resize_bicubic",
    "rgb_to_y",
    "to_levels",
    "to_uint8",
    "upsample",
    "write_image",
    "write_picture",
]
