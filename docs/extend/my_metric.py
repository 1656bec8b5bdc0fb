"""A metric: the error of the gradients, in which blurred and ringing edges show."""

from torch import Tensor

from ctsr_lightning.images import rgb_to_y
from ctsr_lightning.metrics.base import ImageMean


def edge_error(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels' steps on luma, in 8-bit levels, shape (B,).

    Args:
        restored: Images in [0, 1], shape (B, 3, H, W).
        gt: Ground truth of the same shape.
    """
    difference = 255.0 * (rgb_to_y(restored) - rgb_to_y(gt))
    return (difference.diff(dim=-1).abs().mean((1, 2, 3)) + difference.diff(dim=-2).abs().mean((1, 2, 3))) / 2


class EdgeError(ImageMean):
    """Mean over images of the gradients' error."""

    higher_is_better = False
    definition = "mean absolute error of horizontal and vertical differences on Y of BT.601, in 8-bit levels"

    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Error of each image; rounding, checks and means over processes are in the base class."""
        return edge_error(restored, gt)
