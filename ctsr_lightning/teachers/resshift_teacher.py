"""ResShift's process in the student's latent space as a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.latent_resshift import LatentResShift
from ctsr_lightning.teachers.base import Gradient, TeacherTargets
from ctsr_lightning.teachers.chain_teacher import ChainTeacher, clean_targets


class ResShiftTeacher(ChainTeacher):
    """A restorer of several steps: the fidelity teacher T_f (ResShift), trained in the student's latent space.

    ResShift predicts the clean latent on a chain of its own: the step τ whose SNR is nearest to that of t is looked up,
    w_τ = z_0 + η_τ (w_y - z_0) + κ √η_τ ε is rebuilt with the same ε, and the prediction ẑ_0 implies the noise
    ε_T = ε + √SNR (z_0 - ẑ_0), with SNR_t where it meets ε_S and SNR_τ where it meets itself. The paper leaves this
    open; this reading is ours, see docs/method.md.

    Args:
        network: The trained network; give it its `weights`.
        clip: Upper limit of both terms' weights, min(SNR, clip); null for none.
        seed: Seed of the noise of `restore`, which every image draws by its own content.

    Raises:
        ValueError: If `clip` is not positive.
    """

    def __init__(self, network: LatentResShift, clip: float | None = None, seed: int = 0) -> None:
        super().__init__(network.schedule, network.scale, clip, seed)
        self.frozen = Frozen(network)

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
        """The noises that its predictions imply, all in the student's own space."""
        if condition is None:
            raise ValueError("ResShiftTeacher needs the result of its own `condition`, found None.")
        step = self.schedule.paired_step(student.alpha_bar)
        weight = self.prior_weight(step, student.clean)
        return clean_targets(lambda noisy: self._predicted(noisy, step, condition), student, gt, weight, gradient)

    def _predicted(self, noisy: Noisy, step: Tensor, degraded: Tensor) -> Tensor:
        """ẑ_0."""
        network = self.frozen.network
        shifted = network.schedule.add_noise(noisy.clean, degraded, noisy.noise, step)
        return network.predict_clean(shifted, step, degraded)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Walk the chain; an image gets the same noise every time."""
        return self.frozen.network.restore(lq, self.seed)
