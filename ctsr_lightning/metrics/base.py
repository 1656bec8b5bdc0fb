"""Base classes: means over images, which no batching and no number of processes changes, and perceptual distances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ctsr_lightning.images import quantize


def require_finite(metric: str, **images: Tensor) -> None:
    """Refuse images that hold NaN or infinity, which rounding to 8 bits would hide.

    Args:
        metric: Name of the metric, for the message.
        images: Images by what they are, each of shape (B, 3, H, W).

    Raises:
        ValueError: If a value is not finite; the message lists the images' places in the batch.
    """
    for what, image in images.items():
        bad = torch.nonzero(~torch.isfinite(image).flatten(1).all(dim=1)).flatten().tolist()
        if bad:
            raise ValueError(
                f"{metric}: `{what}` is not finite for image {bad} of the batch, it holds NaN or infinity. "
                "Check the weights and the precision."
            )


class ImageMean(Metric):
    """Mean of one value per image.

    The states are the sum of the values in float64 and their number, both summed over processes: batched equals
    unbatched and one process equals n. Images are rounded to 8 bits first, so that the value is that of the files.
    """

    full_state_update = False
    is_differentiable = False

    needs_reference: bool = True
    """Whether the value depends on the ground truth."""
    partial: bool = False
    """Whether it may have no value (NaN) for some images, which then do not count."""
    definition: str = ""
    """The metric's definition in one line, for the record of a result."""
    weight_files: tuple[Path, ...] = ()
    """The weight files that its values depend on."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Measure rounded float32 images, shape (B, 3, H, W): one value per image, shape (B,)."""

    def values(self, restored: Tensor, gt: Tensor | None = None) -> Tensor:
        """Value of each image, shape (B,), float64; the states stay as they are.

        Args:
            restored: Restored images in [0, 1], shape (B, 3, H, W).
            gt: Ground truth of the same shape; may be left out where `needs_reference` is off.

        Raises:
            ValueError: If the shapes differ or are not those of RGB images, or if a value is not finite.
        """
        name = type(self).__name__
        if gt is None:
            if self.needs_reference:
                raise ValueError(f"{name} compares images with their ground truth, found none. Give `gt`.")
            gt = restored
        if restored.shape != gt.shape or restored.dim() != 4 or restored.shape[1] != 3:
            raise ValueError(
                "Expected restored images and ground truth of one shape (B, 3, H, W), found "
                f"{tuple(restored.shape)} and {tuple(gt.shape)}. Check the scale, and crop pairs to the same size."
            )
        require_finite(name, restored=restored, gt=gt)
        values = self.measure(quantize(restored.float()), quantize(gt.float())).double()
        fine = torch.isfinite(values) | (values.isnan() if self.partial else False)
        if not bool(fine.all()):
            bad = torch.nonzero(~fine).flatten().tolist()
            raise ValueError(
                f"{name} is not finite for image {bad} of the batch although the images are: it is not defined for "
                "them, as NIQE is not for flat images, or the weights are damaged. Leave the images or the metric out."
            )
        return values

    def update(self, restored: Tensor, gt: Tensor | None = None) -> None:
        """Add a batch; arguments as in `values`."""
        values = self.values(restored, gt)
        values = values[~values.isnan()]
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """Mean over all images, float64; NaN without any."""
        return self.total / self.count


class PerceptualDistance(nn.Module, ABC):
    """A distance between images that follows appearance rather than pixels; smaller is more alike.

    It is frozen and always in evaluation mode; gradients flow to the images.
    """

    definition: str = ""
    """The distance's definition in one line, for the record of a result."""
    weight_files: tuple[Path, ...] = ()
    """The weight files that its values depend on."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the distance in results, for example `lpips_squeeze`."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair, shape (B,).

        Args:
            x: Images in [0, 1], shape (B, 3, H, W).
            y: Images in [0, 1], same shape.
        """

    def train(self, mode: bool = True) -> PerceptualDistance:  # noqa: ARG002
        """Stay in evaluation mode."""
        super().train(False)
        return self
