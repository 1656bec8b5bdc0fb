"""The super-resolver of a few denoising steps (CCSR, AddSR)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.diffusion.parametrization import Prediction, to_clean
from ctsr_lightning.diffusion.sampling import Between, noise_by_content, sample_few_steps, shared_noise
from ctsr_lightning.diffusion.schedule import NoiseSchedule
from ctsr_lightning.images import upsample
from ctsr_lightning.models.parts import Part, bare_codec
from ctsr_lightning.models.restoration_model import ControlKind, RestorationModel, control_on_latents
from ctsr_lightning.models.student import amplifies, without_bfloat16
from ctsr_lightning.networks.guided_denoiser import GuidedDenoiser
from ctsr_lightning.prompts.base import NoPrompt, Prompt
from ctsr_lightning.weights.reading import load_weights

FewStepStart = Literal["lq", "noise"]
"""What the first step's input is: the low-quality latent, noised, or noise alone."""


class FewStepStudent(RestorationModel):
    """Restores in N denoising steps guided by the low-quality image; fewer of them are more faithful.

    z_L = E(up(x_LR)); z at the first timestep is √ᾱ z_L + √(1-ᾱ) ε; step i estimates ẑ_i, guided by z_L at first and
    then by w ẑ_{i-1} + (1-w) z_L; see `sample_few_steps` for what is between two steps. Control is a straight line from
    N steps to one, z(t) = ẑ_N + t (ẑ_1 - ẑ_N), so that one chain serves every t.

    Args:
        denoiser: The guided denoiser.
        codec: The autoencoder, never trained here.
        scale: Enlargement, an integer >= 1.
        prompt: Source of the prompt embedding; null for none.
        steps: Timesteps, descending: AddSR's are the default, CCSR's are those of `structure_steps`. They may be others
            than in training.
        start: What the first input is; `noise` is CCSR v1.
        refine: w in [0, 1], AddSR's self-refinement, here of latents; 0, as in CCSR, is guided by z_L throughout.
        between: AddSR's rule or, for `posterior`, CCSR's.
        prediction: Prediction of the denoiser. `epsilon` at t = 999 amplifies a small network's errors 14.6 times,
            `v_prediction` does not.
        temperature: Factor in [0, 1] on all noise; 0 makes the model deterministic.
        weights: Trained weights to start from: a `weights.safetensors` or checkpoint of a training with such a student.

    Raises:
        ValueError: If the channels do not fit, steps do not descend within the schedule, or a setting leaves its range.
    """

    def __init__(
        self,
        denoiser: GuidedDenoiser,
        codec: LatentCodec,
        scale: int = 4,
        prompt: Prompt | None = None,
        steps: Sequence[int] = (999, 749, 499, 249),
        start: FewStepStart = "lq",
        refine: float = 0.0,
        between: Between = "renoise",
        prediction: Prediction = "epsilon",
        temperature: float = 1.0,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        found = (denoiser.unet.config.in_channels, denoiser.channels)
        if found != (codec.channels, codec.channels):
            raise ValueError(
                f"Expected a UNet with the {codec.channels} channels of the codec's latents in and out, found "
                f"{found[0]} and {found[1]}. Configure both for the same latent space."
            )
        if scale < 1:
            raise ValueError(f"Expected an integer scale >= 1, found {scale}.")
        for name, value in (("refine", refine), ("temperature", temperature)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Expected {name} in [0, 1], found {value}.")
        self.schedule = NoiseSchedule()
        self.denoiser, self.codec, self.scale, self.prompt = denoiser, codec, scale, prompt or NoPrompt()
        self.start: FewStepStart = start
        self.between: Between = between
        self.prediction: Prediction = prediction
        self.timesteps = self._listed = self.checked(steps)
        self.refine, self.temperature = refine, temperature
        self.method = "CCSR" if between == "posterior" else "AddSR"
        codec.requires_grad_(False)
        if weights is not None:
            load_weights(self, weights, "student.", only_trainable=True)

    def checked(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Refuse timesteps that are none, do not descend, or are not of the schedule."""
        last = self.schedule.num_timesteps - 1
        if not steps or not all(a > b for a, b in pairwise([last + 1, *steps, -1])):
            raise ValueError(f"Expected descending timesteps from {last} to 0, found {list(steps)}.")
        return tuple(steps)

    @property
    def most_steps(self) -> int:
        """How many timesteps are listed."""
        return len(self._listed)

    @property
    def steps(self) -> int:
        """N. It may be set to less than the listed timesteps, of which the first N then restore."""
        return len(self.timesteps)

    @steps.setter
    def steps(self, number: int) -> None:
        if not 1 <= number <= len(self._listed):
            raise ValueError(
                f"Expected 1 to {len(self._listed)} steps, as this student lists the timesteps {list(self._listed)}, "
                f"found {number}. List more in its configuration."
            )
        self.timesteps = self._listed[:number]

    @property
    def cell(self) -> int:
        """Latents that the UNet's coarsest level has as one."""
        return self.denoiser.cell

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return self.codec.factor * self.cell

    @property
    def control_kind(self) -> ControlKind:
        """Maps as well, as latents are mixed; none with a single step."""
        return "map" if len(self.timesteps) > 1 else "none"

    @property
    def random(self) -> bool:
        """Whether any noise is left."""
        return self.temperature > 0.0

    def encode(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1]: z = E(image), without gradient."""
        with torch.no_grad():
            return self.codec.encode(unit_to_signed(image))

    def estimate(self, noisy: Tensor, step: int | Tensor, prompt: Tensor | None, guide: Tensor) -> Tensor:
        """ẑ_0 from z_t, float32 or better.

        Args:
            noisy: z_t, shape (B, C, h, w).
            step: t, or one for each image, shape (B,).
            prompt: Embeddings, shape (B, L, D), or None.
            guide: g, as z_t.
        """
        timestep, latest = _timesteps(step, noisy), step if isinstance(step, int) else int(step.max())
        with without_bfloat16(self.denoiser, noisy.device) if self._amplifies(latest) else nullcontext():
            output = self.denoiser(noisy, timestep, prompt, guide)
        return to_clean(output, noisy, self.schedule.alpha_bar(timestep, noisy), self.prediction)

    def noised(self, latent: Tensor, noise: Tensor, step: int | Tensor) -> Tensor:
        """z_t = √ᾱ_t z + √(1-ᾱ_t) ε; t as in `estimate`."""
        return self.schedule.add_noise(latent, noise, _timesteps(step, latent))

    def first_input(self, lq_latent: Tensor, noise: Tensor, step: int) -> Tensor:
        """z_t at the first timestep, from z_L and ε."""
        latent = lq_latent if self.start == "lq" else torch.zeros_like(lq_latent)
        return self.noised(latent, self.temperature * noise, step)

    def guide(self, lq_latent: Tensor, before: Tensor | None) -> Tensor:
        """g: w ẑ + (1-w) z_L after a step that estimated ẑ, z_L at the first one."""
        return lq_latent if before is None else self.refine * before + (1.0 - self.refine) * lq_latent

    def estimates(
        self, lq_latent: Tensor, noise: Tensor, prompt: Tensor | None = None, steps: Sequence[int] | None = None
    ) -> list[Tensor]:
        """ẑ_1 … ẑ_N.

        Args:
            lq_latent: z_L, shape (B, C, h, w).
            noise: ε of every step along the channels, shape (B, N C, h, w); only at temperature 0 it may be empty.
            prompt: Embeddings, shape (B, L, D), or None.
            steps: Timesteps; null takes the model's own.
        """
        steps = self.timesteps if steps is None else self.checked(steps)
        drawn = iter(noise.split(self.codec.channels, dim=1))

        def normal(like: Tensor) -> Tensor:
            return next(drawn) if self.temperature > 0.0 else torch.zeros_like(like)

        def predict(noisy: Tensor, step: int, before: Tensor | None) -> Tensor:
            return self.estimate(noisy, step, prompt, self.guide(lq_latent, before))

        noisy = self.first_input(lq_latent, normal(lq_latent), steps[0])
        return sample_few_steps(predict, noisy, self.schedule, steps, self.between, normal, self.temperature)

    @torch.no_grad()
    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # `advance` has the prompt
        """z_L = E(up(x_LR)), shape (B, C, h', w')."""
        return self.encode(upsample(lq, self.scale))

    def begin(self, shared: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z_L and behind it, along the channels, the noise of all steps, shape (B, (1 + N) C, h', w')."""
        if not self.random:
            return shared
        return torch.cat([shared, shared_noise(shared.repeat(1, len(self.timesteps), 1, 1), generator)], dim=1)

    @torch.no_grad()
    def advance(self, state: Tensor, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """ẑ_N and ẑ_1, shape (B, 2 C, h', w')."""
        lq_latent, noise = state[:, : self.codec.channels], state[:, self.codec.channels :]
        estimates = self.estimates(lq_latent, noise, self.prompt(lq, keys))
        return torch.cat([estimates[-1], estimates[0]], dim=1)

    @torch.no_grad()
    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """z(t) = ẑ_N + t (ẑ_1 - ẑ_N); a map is averaged over each latent's pixels."""
        self.check_control(control)
        last, first = state.chunk(2, dim=1)
        t = control_on_latents(control, last, self.codec.factor)
        return torch.lerp(last, first, t.to(last) if isinstance(t, Tensor) else t)

    @torch.no_grad()
    def sweep(
        self, lq: Tensor, controls: Sequence[float | Tensor], keys: list[str] | None = None, seed: int = 0
    ) -> list[Tensor]:
        """Restore at several t by one chain, without tiles.

        Args:
            lq: Low-quality images as in `shared`.
            controls: Values of t.
            keys: As in `shared`.
            seed: Seed of the noise, which depends on it and the image's own pixels alone, see `noise_by_content`.
        """
        state = self.advance(self._seeded(lq, len(self.timesteps), seed), lq, keys)
        return [self.at(state, control) for control in controls]

    @torch.no_grad()
    def restore_in(self, steps: Sequence[int], lq: Tensor, keys: list[str] | None = None, seed: int = 0) -> Tensor:
        """Restore by other timesteps than the model's own; arguments as in `sweep`."""
        lq_latent, noise = self._seeded(lq, len(steps), seed).tensor_split([self.codec.channels], dim=1)
        latent = self.estimates(lq_latent, noise, self.prompt(lq, keys), steps)[-1]
        return signed_to_unit(self.codec.decode(latent)).clamp(0.0, 1.0)

    def restore_by(
        self, chains: Sequence[Sequence[int]], lq: Tensor, keys: list[str] | None = None
    ) -> dict[str, Tensor]:
        """Restorations by several lists of timesteps, named by their numbers of steps."""
        names = [f"{len(steps)} step{'s' * (len(steps) > 1)}" for steps in chains]
        return {name: self.restore_in(steps, lq, keys) for name, steps in zip(names, chains, strict=True)}

    def prepare(self, dtype: torch.dtype) -> list[tuple[nn.Module, torch.dtype]]:
        """Codec and denoiser; where a step amplifies rounding, the latter stays in float32 in place of bfloat16."""
        coarse = dtype == torch.bfloat16 and any(self._amplifies(step) for step in self.timesteps)
        own = torch.float32 if coarse else dtype
        return [*super().prepare(dtype), *((network, own) for network in self.denoiser.for_inference())]

    @torch.no_grad()
    def parts(self, lq: Tensor) -> list[Part]:
        """Encoder, all steps and decoder."""
        state = self.begin(self.shared(lq))
        latent = self.latent_at(self.advance(state, lq), 0.0)
        encoder, decoder = self.codec.halves()
        encode, decode = bare_codec(self.codec, unit_to_signed(upsample(lq, self.scale)), latent)
        return [
            Part("encode z_L = E(up(x))", encoder or [self.codec], lambda: self.shared(lq), encode),
            Part(f"{len(self.timesteps)} steps", [self.denoiser], lambda: self.advance(state, lq)),
            Part("decode", decoder or [self.codec], lambda: self.codec.decode(latent), decode, per_t=True),
        ]

    def _seeded(self, lq: Tensor, count: int, seed: int) -> Tensor:
        """As `begin`, the noise drawn by each image's content."""
        lq_latent = self.shared(lq)
        if not self.random:
            return lq_latent
        return torch.cat([lq_latent, noise_by_content(lq, seed)(lq_latent.repeat(1, count, 1, 1))], dim=1)

    def _amplifies(self, step: int) -> bool:
        return amplifies(float(self.schedule.alpha_bars[step]), self.prediction)


def _timesteps(step: int | Tensor, like: Tensor) -> Tensor:
    """Timesteps of a batch, shape (B,)."""
    return torch.full((len(like),), step, device=like.device) if isinstance(step, int) else step
