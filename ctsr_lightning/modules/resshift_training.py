"""Training of the fidelity teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.losses import reconstruction
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.losses.reconstruction import LATTICE
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.codec import signed_to_unit
from ctsr_lightning.networks.latent_resshift import LatentResShift


class ResShiftTraining(RestorationModule):
    """Train ResShift's process in the student's latent space: E ‖f(w_τ, τ, w_y) - w_0‖² over all steps.

    Args:
        network: The denoiser.
        lambda_latent: Weight of that error (ResShift: 1).
        lambda_pixel: Weight of the mean absolute error of the decoded prediction, on images in [-1, 1]; 0 leaves it
            out. Not in ResShift: it asks for fidelity in pixels, whatever the scale of the latent's channels.
        l2_from: Share of the training, in [0, 1], after which the mean squared error takes the place of the mean
            absolute one: absolute errors learn faster, squared ones are what PSNR measures. Null never does. The terms
            are logged as `shift/pixel` and `shift/pixel_l2`.
        lambda_l2: Weight of that squared error. Its gradient is 2 |error| times that of the absolute error, so about
            1 / (2 |error|) times `lambda_pixel`, 6 at a mean error of 0.08, keeps the balance with the other terms.
        lambda_grid: Weight of the term against patches that show in that image, see `losses.reconstruction.grid`; 0
            leaves it out. Not in ResShift.
        lambda_lattice: Weight of the term against lattices in that image, see `losses.reconstruction.lattice`; 0 leaves
            it out. Not in ResShift.
        symmetries: Mirror and turn every batch of square crops at random.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If `l2_from` leaves [0, 1].
    """

    def __init__(
        self,
        network: LatentResShift,
        lambda_latent: float = 1.0,
        lambda_pixel: float = 0.0,
        l2_from: float | None = None,
        lambda_l2: float = 1.0,
        lambda_grid: float = 0.0,
        lambda_lattice: float = 0.0,
        symmetries: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if l2_from is not None and not 0.0 <= l2_from <= 1.0:
            raise ValueError(f"Expected l2_from in [0, 1], a share of the training, or null, found {l2_from}.")
        self.network, self.scale = network, network.scale
        self.lambda_latent, self.lambda_pixel, self.lambda_grid = lambda_latent, lambda_pixel, lambda_grid
        self.lambda_lattice, self.symmetries = lambda_lattice, symmetries
        self.l2_from, self.lambda_l2 = l2_from, lambda_l2

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the predicted clean latent, and of its image."""
        if batch.gt is None:
            raise ValueError("The fidelity teacher trains on ground truth, but this batch has none.")
        network, lq, gt = self.network, batch.lq, batch.gt
        if self.symmetries:
            lq, gt = random_symmetry([lq, gt], self.draws.generator)
        clean, degraded = network.encode(gt), network.degraded(lq)
        step = self.draws.integers(0, network.schedule.num_steps - 1, clean)
        shifted = network.schedule.add_noise(clean, degraded, self.draws.normal(clean), step)
        predicted = network.predict_clean(shifted, step, degraded)
        terms = {"shift/latent": self.lambda_latent * F.mse_loss(predicted, at_least_float32(clean))}
        squared = self._squares()
        weight = self.lambda_l2 if squared else self.lambda_pixel
        if weight or self.lambda_grid or self.lambda_lattice:
            image = signed_to_unit(network.codec.decode(predicted))
            if weight and squared:
                terms["shift/pixel_l2"] = weight * reconstruction.l2(image, gt)
            elif weight:
                terms["shift/pixel"] = weight * reconstruction.l1(image, gt)
            if self.lambda_grid:
                terms["shift/grid"] = self.lambda_grid * reconstruction.grid(image, gt, network.codec.factor)
            if self.lambda_lattice:
                terms["shift/lattice"] = self.lambda_lattice * reconstruction.lattice(image, gt, LATTICE)
        return terms

    def _squares(self) -> bool:
        """Whether the training has come to its squared errors; a resumed one decides as if never interrupted."""
        if self.l2_from is None:
            return False
        return self.trainer.global_step >= self.l2_from * self.trainer.estimated_stepping_batches

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """Walk the chain; an image gets the same noise every time."""
        return self.network.restore(lq)
