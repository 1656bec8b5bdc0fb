"""Training of the fidelity teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs.codec import signed_to_unit
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.modules.base import RestorationModule
from ctsr_lightning.networks.latent_resshift import LatentResShift


class ResShiftTraining(RestorationModule):
    """Train ResShift's process in the student's latent space: E ‖f(w_τ, τ, w_y) - w_0‖² over all steps.

    Args:
        network: The denoiser.
        lambda_latent: Weight of that error, logged as `shift/latent` (ResShift: 1).
        reconstruction: Terms on the decoded prediction, which ask for fidelity in pixels, whatever the scale of the
            latent's channels; null, as in ResShift v1 and v2, decodes nothing. ResShift v3 adds LPIPS.
        l2_from: Share of the training, in [0, 1], after which `rec/l2` takes the place of `rec/l1`: absolute errors
            learn faster, squared ones are what PSNR measures. The gradient of squares is 2 |error| times that of
            absolute errors, so a `lambda_l2` of 1 / (2 |error|) times `lambda_l1`, 6 at a mean error of 0.08, keeps
            the balance with the other terms. Null trains on both as they are weighted.
        symmetries: Mirror and turn every batch of square crops at random.
        **kwargs: Optimizer and scheduler.

    Raises:
        ValueError: If `l2_from` leaves [0, 1], or has not both terms to choose from.
    """

    def __init__(
        self,
        network: LatentResShift,
        lambda_latent: float = 1.0,
        reconstruction: Reconstruction | None = None,
        l2_from: float | None = None,
        symmetries: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if l2_from is not None and not 0.0 <= l2_from <= 1.0:
            raise ValueError(f"Expected l2_from in [0, 1], a share of the training, or null, found {l2_from}.")
        if l2_from is not None and not (reconstruction and reconstruction.lambda_l1 and reconstruction.lambda_l2):
            raise ValueError("Expected `lambda_l1` and `lambda_l2` of `reconstruction` for `l2_from`. Set both.")
        self.network, self.scale = network, network.scale
        self.lambda_latent, self.reconstruction = lambda_latent, reconstruction
        self.l2_from, self.symmetries = l2_from, symmetries

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The error of the predicted clean latent, and of its image."""
        network, lq, gt = self.network, batch.lq, self.ground_truth(batch)
        if self.symmetries:
            lq, gt = random_symmetry([lq, gt], self.draws.generator)
        clean, degraded = network.encode(gt), network.degraded(lq)
        step = self.draws.integers(0, network.schedule.num_steps - 1, clean)
        shifted = network.schedule.add_noise(clean, degraded, self.draws.normal(clean), step)
        predicted = network.predict_clean(shifted, step, degraded)
        terms = {"shift/latent": self.lambda_latent * F.mse_loss(predicted, at_least_float32(clean))}
        if self.reconstruction is not None:
            image = signed_to_unit(network.codec.decode(predicted))
            terms |= self.reconstruction(image, gt, network.codec.factor, self.draws.generator)
            if self.l2_from is not None:
                del terms["rec/l1" if self._past(self.l2_from) else "rec/l2"]
        return terms

    def _past(self, share: float) -> bool:
        """Whether a share of the training is over, counted in steps from its very beginning."""
        return self.trainer.global_step >= share * self.trainer.estimated_stepping_batches

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # sees no prompt
        """Walk the chain; an image gets the same noise every time."""
        return self.network.restore(lq)
