"""The published ResShift and SinSR restorers as teachers of a student in another latent space."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ctsr_lightning.codecs.codec import LatentCodec, unit_to_signed
from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.diffusion.parametrization import at_least_float32, implied_noise, signal_to_noise
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.published_resshift import PublishedResShift
from ctsr_lightning.networks.swin_unet import LQ_CHANNELS
from ctsr_lightning.teachers.base import Gradient, TeacherTargets, through_identity
from ctsr_lightning.teachers.chain_teacher import ChainTeacher


class BridgedTeacher(ChainTeacher):
    """Fidelity teacher T_f in a latent space of its own: ResShift or SinSR with their published weights.

    The paper leaves open how these enter Eq. 2. Clean latents come over through pixels, w = E_q(x). The second term is
    taken in the teacher's space, ε̂ = ε_q + √SNR_τ (w - ŵ). For the first the teacher's correction returns through
    pixels, x̂_0 = ẑ + E(D_q(ŵ)) - E(D_q(w)), so that what the two autoencoders lose cancels: a teacher with nothing to
    correct gives ẑ itself. docs/method.md derives and discusses it.

    Args:
        network: The trained restorer; `load_resshift` or `load_sinsr` read the published files.
        codec: E, the plain autoencoder of the student's latent space, without the student's adapters.
        clip: Upper limit of both terms' weights, min(SNR, clip); null for none.
        seed: Seed of the noise of `restore`, which every image draws by its own content.
        gradient_checkpointing: Recompute activations in the backward pass. It pays for E_q, the largest part with a
            gradient at 512 pixels; with gradient `paper` for the denoiser, D_q and E, too.

    Raises:
        ValueError: If `clip` is not positive, or the codec has adapters.
    """

    def __init__(
        self,
        network: PublishedResShift,
        codec: LatentCodec,
        clip: float | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(network.schedule, network.scale, clip, seed)
        if any("lora_" in name for name, _ in codec.named_parameters()):
            raise ValueError(
                "Expected a plain autoencoder as codec, found one with adapters. Build a second one, as the student's "
                "own would be frozen here and its adapters never trained."
            )
        self.frozen, self.codec = Frozen(network), Frozen(codec)
        if gradient_checkpointing:
            network.enable_gradient_checkpointing()
            codec.enable_gradient_checkpointing()

    @property
    def multiple(self) -> int:
        """Sides of a restored image must be multiples of this many pixels; `restore` pads by itself."""
        return math.lcm(self.frozen.network.multiple, self.codec.network.factor)

    @torch.no_grad()
    def condition(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """w_y and behind it, along the channels, the low-quality images themselves: both have the same grid.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Not needed.

        Raises:
            ValueError: If the denoiser's windows do not fill the images.
        """
        (height, width), side = lq.shape[-2:], self.multiple // self.scale
        if height % side or width % side:
            raise ValueError(
                f"Expected low-quality images whose sides are multiples of {side}, whole windows for ResShift's "
                f"denoiser, found {height}x{width}. Train on crops whose sides are multiples of {self.multiple} pixels."
            )
        return torch.cat([self.frozen.network.degraded(lq), lq], dim=1)

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],
    ) -> TeacherTargets:
        """The align target in the student's space, the prior's noises in ResShift's."""
        if condition is None:
            raise ValueError("BridgedTeacher needs the result of its own `condition`, found None.")
        network, step = self.frozen.network, self.schedule.paired_step(student.alpha_bar)
        with torch.no_grad():
            latent = network.encode(gt.image)
            noise, weight = normal(latent), self.prior_weight(step, latent)
            prior_gt = implied_noise(noise, latent, self._restored(latent, noise, step, condition), weight)
        latent = network.encode(student.image)
        with torch.set_grad_enabled(gradient == "paper" and torch.is_grad_enabled()):
            restored = self._restored(latent, noise, step, condition)
            before, after = (self._carried_back(w, student) for w in (latent, restored))
            align = implied_noise(student.noise, before, after, signal_to_noise(student.alpha_bar))
        if gradient == "score":
            align = through_identity(align, student.latent)
        return TeacherTargets(align, implied_noise(noise, latent, restored, weight), prior_gt)

    def _restored(self, latent: Tensor, noise: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """ŵ, what the denoiser makes of w."""
        network = self.frozen.network
        degraded, lq = condition.split([network.codec.channels, LQ_CHANNELS], dim=1)
        return network.predict_clean(network.schedule.add_noise(latent, degraded, noise, step), step, lq)

    def _carried_back(self, latent: Tensor, student: Noisy) -> Tensor:
        """E(D_q(w)), in the student's latent space."""
        clean = self.codec.network.encode(unit_to_signed(self.frozen.network.decode(latent)))
        if clean.shape != student.latent.shape:
            raise ValueError(
                f"Expected latents of the student's shape, {tuple(student.latent.shape)}, from BridgedTeacher's codec, "
                f"found {tuple(clean.shape)}. Give it the same base autoencoder as the student."
            )
        return at_least_float32(clean)

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Walk the chain, or make SinSR's one step; an image gets the same noise every time."""
        return self.frozen.network.restore(lq, self.seed)
