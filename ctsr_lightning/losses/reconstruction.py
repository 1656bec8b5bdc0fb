"""Reconstruction loss of Eq. 1: errors between a restored image and its ground truth."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from typing_extensions import final

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.images import rgb_to_y
from ctsr_lightning.losses.random_views import random_view
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.spectrum import lattice_power

GRID_FLOOR = 1e-4
"""Mean difference (for images in [0, 1]) below which pixels count as equal, as in `metrics.grid`."""

LATTICE = 8
"""Period in pixels of the lattice term: JPEG's blocks, and with them the lattices of 4 and 2 pixels."""

ROUNDING = 1.0 / (12.0 * 255.0**2)
"""Variance of rounding an image in [0, 1] to 8 bits."""


@final  # jsonargparse then reads its arguments without a class_path
class Reconstruction(nn.Module):
    """Eq. 1, λ_l2 ‖x̂ - x_GT‖² + λ_lp ℓ(x̂, x_GT), and terms of this project; those of weight 0 are left out.

    It holds no parameters: ℓ is frozen, and absent from checkpoints.

    Args:
        lambda_l2: λ_l2, weight of the mean squared error of images in [-1, 1] (paper, OSEDiff: 1).
        lambda_l1: Weight of their mean absolute error. In no paper.
        lambda_lpips: λ_lp, weight of the perceptual distance (paper, OSEDiff: 2).
        perceptual: ℓ, the perceptual distance: LPIPS in the paper; null with `lambda_lpips` 0.
        random_views: Take ℓ of random views of the images (E-LPIPS), see `losses.random_views`. In no paper.
        lambda_grid: Weight of the term against visible patches, see `losses.reconstruction.grid`. In no paper.
        lambda_lattice: Weight of the term against lattices, see `losses.reconstruction.lattice`. In no paper.

    Raises:
        ValueError: If `lambda_lpips` has no `perceptual`.
    """

    def __init__(
        self,
        lambda_l2: float = 1.0,
        lambda_l1: float = 0.0,
        lambda_lpips: float = 2.0,
        perceptual: PerceptualDistance | None = None,
        random_views: bool = False,
        lambda_grid: float = 0.0,
        lambda_lattice: float = 0.0,
    ) -> None:
        super().__init__()
        if lambda_lpips and perceptual is None:
            raise ValueError(
                f"Expected `perceptual`, the distance that `lambda_lpips` ({lambda_lpips:g}) weights, found null. Name "
                "one, such as LPIPS, or set `lambda_lpips` to 0."
            )
        self.lambda_l2 = lambda_l2
        self.lambda_l1 = lambda_l1
        self.lambda_lpips = lambda_lpips
        self.perceptual = None if perceptual is None else Frozen(perceptual)
        self.random_views = random_views
        self.lambda_grid = lambda_grid
        self.lambda_lattice = lambda_lattice

    def forward(self, restored: Tensor, gt: Tensor, patch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the weighted terms, under `rec/l2`, `rec/l1`, `rec/lpips`, `rec/grid` and `rec/lattice`.

        A perceptual distance other than LPIPS is logged under its own name.

        Args:
            restored: x̂ in [0, 1], shape (B, 3, H, W).
            gt: x_GT in [0, 1], same shape.
            patch: Pixels per latent along each side.
            generator: Source of the random views, on the CPU.
        """
        terms = {}
        if self.lambda_l2:
            terms["rec/l2"] = self.lambda_l2 * l2(restored, gt)
        if self.lambda_l1:
            terms["rec/l1"] = self.lambda_l1 * l1(restored, gt)
        if self.lambda_lpips and self.perceptual is not None:
            name = self.perceptual.network.name
            pair = random_view(restored, gt, generator) if self.random_views else (restored, gt)
            distance = self.perceptual(*pair).mean()
            terms["rec/lpips" if name.startswith("lpips") else f"rec/{name}"] = self.lambda_lpips * distance
        if self.lambda_grid:
            terms["rec/grid"] = self.lambda_grid * grid(restored, gt, patch)
        if self.lambda_lattice:
            terms["rec/lattice"] = self.lambda_lattice * lattice(restored, gt, LATTICE)
        return terms


def l2(restored: Tensor, gt: Tensor) -> Tensor:
    """‖x̂ - x_GT‖² of Eq. 1: the mean squared error of images in [-1, 1].

    Args:
        restored: x̂ in [0, 1], shape (B, 3, H, W).
        gt: x_GT in [0, 1].
    """
    return F.mse_loss(restored * 2.0 - 1.0, gt * 2.0 - 1.0)


def l1(restored: Tensor, gt: Tensor) -> Tensor:
    """Mean absolute error of images in [-1, 1]; arguments as in `l2`."""
    return F.l1_loss(restored * 2.0 - 1.0, gt * 2.0 - 1.0)


def grid(restored: Tensor, gt: Tensor, factor: int) -> Tensor:
    """Visibility of the codec's patches of f x f pixels: steepness at each place in a patch, against ground truth's.

    For both directions the absolute difference of neighbouring pixels is averaged over the batch at each of the f²
    places of a patch, and divided by its mean over all places; the term is the mean square of log x̂ - log x_GT of these
    shares. Ours, in no paper: a decoder that makes every patch from one latent can paint the grid of patches where a
    perceptual distance rewards it, and leaves it where smooth images are steepest between the pixels that they were
    made from. The term is free of scale, so it favours neither more nor less detail. It is a statistic of the batches
    of all processes together, no mean over images: every process must call it.

    Args:
        restored: x̂ in [0, 1], shape (B, 3, H, W), sides multiples of f.
        gt: x_GT in [0, 1].
        factor: f, pixels per latent along each side.

    Raises:
        ValueError: If a side is no multiple of f, or not longer than one patch.
    """
    height, width = gt.shape[-2:]
    if height % factor or width % factor or min(height, width) <= factor:
        raise ValueError(
            f"Expected images of several whole patches of {factor}x{factor} pixels, found {height}x{width} pixels."
        )
    places = torch.stack([_steps_by_place(image, axis, factor) for image in (restored, gt) for axis in (-1, -2)])
    if distributed.is_available() and distributed.is_initialized():
        whole = places.detach().clone()
        distributed.all_reduce(whole)
        # The value is that of all batches, the gradient that of this process's share in it: DistributedDataParallel
        # averages the gradients, and so makes the whole one of them.
        places = places + (whole / distributed.get_world_size() - places.detach())
    places = places + GRID_FLOOR
    log_shares = (places / places.mean(dim=(1, 2), keepdim=True)).log()
    return (log_shares[:2] - log_shares[2:]).square().mean()


def lattice(restored: Tensor, gt: Tensor, period: int) -> Tensor:
    """Power of lattices: at the harmonics of a period, over its surroundings and over the ground truth's.

    For the luma of every image, behind one Hann window over it, the power P at every frequency (i/p, j/p) is compared
    with the median M of the spectrum around, see `spectrum.lattice_power`: the term is the mean square of
    relu(log (P + c)/(M + c) - relu(log (P_GT + c)/(M_GT + c))), where c is the power of rounding to 8 bits, below which
    nothing shows. M carries no gradient, so the term takes power from the lattice and adds none around it.
    `metrics.lattice` measures the same. Ours, in no paper.

    Args:
        restored: x̂ in [0, 1], shape (B, 3, H, W), sides at least 8 p; cut to the largest square of periods.
        gt: x_GT in [0, 1].
        period: p in pixels; its divisors' lattices are part of it.

    Raises:
        ValueError: If a side is too short to tell harmonics from what lies between.
    """
    height, width = gt.shape[-2:]
    side = min(height, width) // period * period
    if side < 8 * period:
        raise ValueError(
            f"Expected images of at least {8 * period} pixels a side for a lattice of period {period}, found "
            f"{height}x{width} pixels. Train on larger crops, or leave the term out."
        )
    with torch.no_grad():
        own = _excess(gt, period, side).relu()
    return (_excess(restored, period, side) - own).relu().square().mean()


def _excess(image: Tensor, period: int, side: int) -> Tensor:
    """Log of (P + c)/(M + c) at the harmonics of a period, shape (B, frequencies)."""
    luma = rgb_to_y(at_least_float32(image))[..., :side, :side]
    power, surroundings = lattice_power(luma, period, side, side)
    return ((power + ROUNDING) / (surroundings.detach() + ROUNDING)).log()


def _steps_by_place(image: Tensor, axis: int, factor: int) -> Tensor:
    """Mean absolute difference of neighbours along an axis at every place of a patch, shape (f, f)."""
    steps = image.diff(dim=axis).abs().mean(dim=(0, 1))
    if axis == -2:
        steps = steps.T
    steps = steps[:, : steps.shape[1] - steps.shape[1] % factor]  # whole patches: the last one lacks its last step
    return steps.unflatten(1, (-1, factor)).unflatten(0, (-1, factor)).mean(dim=(0, 2))
