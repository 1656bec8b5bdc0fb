"""Batches of images, as data loaders yield them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of low-quality images with, where known, their ground truth.

    Images are RGB in [0, 1]. The low-quality image has its native size: networks upsample it themselves.
    """

    lq: Tensor
    """Low-quality images, shape (B, 3, h, w)."""
    gt: Tensor | None
    """Ground truth, shape (B, 3, scale * h, scale * w), or None where there is none (prediction)."""
    key: list[str]
    """One name per image, unique in its dataset: the file's path below its folder, without suffix."""
