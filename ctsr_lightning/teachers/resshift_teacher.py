"""ResShift's process in the student's latent space as a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import noise_from_clean
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.latent_resshift import LatentResShift
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets, latent_space_targets


class ResShiftTeacher(Teacher):
    """A restorer of several steps: the fidelity teacher T_f (ResShift), trained in the student's latent space.

    ResShift predicts the clean latent on a chain of its own, so the prediction is carried over: the step τ whose SNR is
    nearest to that of t is looked up, w_τ = z_0 + η_τ (w_y - z_0) + κ √η_τ ε is rebuilt with the same ε, and the
    prediction becomes ε_T = (z_t - √ᾱ ẑ_0) / √(1-ᾱ). The paper leaves this step open; this reading is ours.

    Args:
        network: The trained network; give it its `weights`.
        seed: Seed of the noise of `restore`, which every image draws by its own content.
    """

    def __init__(self, network: LatentResShift, seed: int = 0) -> None:
        super().__init__()
        self.frozen = Frozen(network)
        self.scale = network.scale
        self.seed = seed

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""
        return self.frozen.network.multiple

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """w_y, the latent of the upsampled low-quality images."""
        return self.frozen.network.degraded(lq)

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],  # noqa: ARG002  # the interface; the student's ε serves here, too
    ) -> TeacherTargets:
        """The noise that its predictions imply, in the student's own space."""
        return latent_space_targets(lambda noisy: self.predict_noise(noisy, condition), student, gt, gradient)

    def predict_noise(self, noisy: Noisy, condition: Tensor | None) -> Tensor:
        """The noise that the predicted clean latent implies."""
        if condition is None:
            raise ValueError("ResShiftTeacher needs the result of its own `condition`, found None.")
        network = self.frozen.network
        step = network.schedule.paired_step(noisy.alpha_bar)
        shifted = network.schedule.add_noise(noisy.clean, condition, noisy.noise, step)
        clean = network.predict_clean(shifted, step, condition)
        return noise_from_clean(noisy.latent, clean, noisy.alpha_bar)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Walk the chain; an image gets the same noise every time."""
        return self.frozen.network.restore(lq, self.seed)
