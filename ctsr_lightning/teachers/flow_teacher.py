"""A conditional flow in the student's latent space as a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.diffusion.flow import expand, interpolate, paired_time
from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import min_snr, signal_to_noise
from ctsr_lightning.networks.flow_network import FlowNetwork
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.teachers.base import Gradient, TeacherTargets
from ctsr_lightning.teachers.chain_teacher import CleanTeacher, clean_targets


class FlowTeacher(CleanTeacher):
    """OFTSR's flow as T_f or T_r: realistic in many steps, faithful with one Euler step (`steps: 1, solver: euler`).

    Given c, x_τ is τ z_0 with noise of standard deviation (1-τ) σ, so that one τ has the very SNR of t (`paired_time`).
    x_τ is rebuilt with the same ε, ẑ_0 = x_τ + (1-τ) v(x_τ, c, τ), and the noise that it implies is
    ε_T = (z_t - √ᾱ ẑ_0) / √(1-ᾱ) = ε + √SNR_t (z_0 - ẑ_0) in both terms.

    Args:
        network: The trained flow; give it its `weights`.
        clip: Upper limit of both terms' weights, min(SNR, clip); null for none.
        seed: Seed of the noise of `restore`, which every image draws by its own content.

    Raises:
        ValueError: If `clip` is not positive.
    """

    def __init__(self, network: FlowNetwork, clip: float | None = None, seed: int = 0) -> None:
        super().__init__(network.scale, clip, seed)
        self.frozen = Frozen(network)

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels."""
        return self.frozen.network.multiple

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Condition c, the latent of the upsampled low-quality images."""
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
            raise ValueError("Expected the result of this FlowTeacher's `condition`, found None. Pass it on.")
        network = self.frozen.network
        time = paired_time(student.alpha_bar, network.sigma)
        weight = min_snr(signal_to_noise(student.alpha_bar), self.clip)

        def predict_clean(noisy: Noisy) -> Tensor:
            x = interpolate(network.start(condition, noisy.noise), noisy.clean, time)
            return x + (1.0 - expand(time, x)) * network.velocity(x, time, condition)

        return clean_targets(predict_clean, student, gt, weight, gradient)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Follow the flow; an image gets the same noise every time."""
        return self.frozen.network.restore(lq, self.seed)
