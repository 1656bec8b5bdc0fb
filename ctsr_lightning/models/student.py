"""The one-step super-resolver."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit, unit_to_signed
from ctsr_lightning.diffusion.parametrization import Prediction, at_least_float32, to_clean, to_noise
from ctsr_lightning.diffusion.schedule import NoiseSchedule
from ctsr_lightning.images import upsample
from ctsr_lightning.models.parts import Part, bare_codec, bare_unet
from ctsr_lightning.models.restoration_model import ControlKind, RestorationModel
from ctsr_lightning.networks.denoiser import run_unet
from ctsr_lightning.networks.lora import (
    LoRA,
    adapters_of,
    adapters_off,
    add_encoder_adapters,
    add_unet_adapters,
    merged,
    without_adapters,
)
from ctsr_lightning.networks.sharing import refuse_shared, shared_weights
from ctsr_lightning.prompts.base import NoPrompt, Prompt
from ctsr_lightning.weights.one_step_files import find_format, load_one_step_weights, wrong_entries_error
from ctsr_lightning.weights.reading import give_own_weights, load_weights, read_file
from ctsr_lightning.weights.search import find_weights

EXPECTED = (
    "weights of a one-step student: weights.safetensors or a checkpoint of a training with a `student`, "
    "osediff.pkl or pisa_sr.pkl"
)
AMPLIFYING: Final = 4.0
"""Factor √(1-ᾱ)/√ᾱ on a rounded ε from which the one step is not computed in bfloat16. At t = 999 it is 14.6, and
bfloat16's 1.3 % of ε would be a fifth of ẑ; float16, three bits finer, leaves 2 %."""


def amplifies(alpha_bar: float, prediction: Prediction) -> bool:
    """Whether a step at ᾱ divides rounding errors of the network by a small √ᾱ, see `AMPLIFYING`."""
    return prediction == "epsilon" and alpha_bar < 1.0 / (1.0 + AMPLIFYING**2)


def without_bfloat16(network: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a network in float32 computes in float32 also under bfloat16 autocast."""
    coarse = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16
    wide = next(network.parameters()).dtype.itemsize >= torch.float32.itemsize
    return torch.autocast(device.type, enabled=False) if coarse and wide else nullcontext()


class OneStepStudent(RestorationModel):
    """S: a latent diffusion model that restores in one step (OSEDiff; CTSR Sec. 3.3).

    z_L = E(up(x_LR)); one UNet call at a fixed timestep; ẑ = (z_L - √(1-ᾱ) ε)/√ᾱ in float32; x̂ = D(ẑ). Where
    the division amplifies (`AMPLIFYING`), z_L and ε are computed in float32 also under bfloat16 autocast.
    With `residual` the step is PiSA-SR's ẑ = z_L - ε instead, which amplifies nothing.

    Args:
        unet: The denoiser.
        codec: The autoencoder; its decoder is never trained here.
        scale: Enlargement, an integer >= 1. Linked to the data's scale on the command line.
        lora: Adapters on the UNet, which freezes its base; null trains every weight of the UNet.
        encoder_lora: Adapters on the codec's encoder; null leaves the encoder as it is.
        prompt: Source of the prompt embedding; null for none.
        timestep: Where the one step starts (OSEDiff: 999). Earlier starts divide by a larger √ᾱ and so amplify less,
            which is what a small network trained from scratch needs.
        prediction: Prediction of the UNet, here and as a score at other timesteps.
        residual: The one step subtracts the UNet's output (PiSA-SR, at timestep 1) instead of solving for ẑ. Scores
            are still read by `prediction`.
        sample_latent: Draw z_L from the encoder's posterior, as OSEDiff does, instead of taking its mode. Results
            then vary from call to call.
        gradient_checkpointing: Recompute activations of UNet and codec in the backward pass to save memory.
        weights: Trained weights to start from, told apart by their contents: a `weights.safetensors` or checkpoint of a
            training with a `student`, OSEDiff's `osediff.pkl` in either dialect, or PiSA-SR's `pisa_sr.pkl`.

    Raises:
        ValueError: If scale, timestep or codec do not fit each other, the weights do not fit the student, or the UNet
            is to be trained or replaced as a whole though it was loaded with `share`.
    """

    method = "CTSR"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        codec: LatentCodec,
        scale: int = 4,
        lora: LoRA | None = None,
        encoder_lora: LoRA | None = None,
        prompt: Prompt | None = None,
        timestep: int = 999,
        prediction: Prediction = "epsilon",
        residual: bool = False,
        sample_latent: bool = False,
        gradient_checkpointing: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"Expected an integer scale >= 1, found {scale}.")
        if unet.config.out_channels != codec.channels:
            raise ValueError(
                f"Expected a UNet with the {codec.channels} channels of the codec's latents, found "
                f"{unet.config.out_channels}. Configure both for the same latent space."
            )
        self.schedule = NoiseSchedule()
        if not 0 <= timestep < self.schedule.num_timesteps:
            raise ValueError(f"Expected 0 <= timestep < {self.schedule.num_timesteps}, found {timestep}.")
        self.unet, self.codec, self.prompt = unet, codec, prompt or NoPrompt()
        self.scale, self.timestep = scale, timestep
        self.prediction: Prediction = prediction
        self.residual = residual
        self.sample_latent = sample_latent
        self.base_codec: LatentCodec | None = None  # the codec without adapters, once those of `codec` are merged
        self.codec.requires_grad_(False)
        if lora is not None:
            add_unet_adapters(self.unet, lora)
        else:
            refuse_shared(self.unet, "lora")
        if encoder_lora is not None:
            add_encoder_adapters(self.codec.adapted(), encoder_lora)
        elif lora is None and shared_weights(self.codec):
            give_own_weights(self.codec)  # files with merged adapters, which fit this student, replace every weight
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.codec.enable_gradient_checkpointing()
        if weights is not None:
            load_student_weights(self, weights)

    @property
    def multiple(self) -> int:
        """Sides of the upsampled image must be multiples of this many pixels."""
        return int(self.codec.factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def control_kind(self) -> ControlKind:
        """None: its only point is t = 0."""
        return "none"

    @property
    def random(self) -> bool:
        """Whether it samples its latent."""
        return self.sample_latent

    def upsample(self, lq: Tensor) -> Tensor:
        """up(x_LR) in [-1, 1], shape (B, 3, scale * h, scale * w)."""
        return unit_to_signed(upsample(lq, self.scale))

    def encode(self, image: Tensor) -> Tensor:
        """Encode with the codec's base weights, without gradient: z = E(x).

        Args:
            image: Images in [0, 1], shape (B, 3, H, W).
        """
        codec = self.codec if self.base_codec is None else self.base_codec
        with torch.no_grad(), adapters_off(codec):
            return codec.encode(unit_to_signed(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode: x = D(z), about [0, 1], not clipped, so that gradients flow."""
        return signed_to_unit(self.codec.decode(latent))

    def predict_noise(self, noisy: Tensor, timestep: Tensor, prompt: Tensor | None) -> Tensor:
        """ε_S(z_t, t, c), float32.

        Args:
            noisy: z_t, shape (B, C, h, w).
            timestep: Timesteps, shape (B,).
            prompt: Embeddings c, shape (B, L, D), or None.
        """
        output = run_unet(self.unet, noisy, timestep, prompt)
        return to_noise(output, noisy, self.schedule.alpha_bar(timestep, noisy), self.prediction)

    def start(self, lq: Tensor, enlarged: Tensor | None = None) -> Tensor:
        """z_L = E(up(x_LR)), with the encoder's adapters.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            enlarged: up(x_LR) in [0, 1] by another kernel, shape (B, 3, scale * h, scale * w).
        """
        with self._one_step(lq):
            up = self.upsample(lq) if enlarged is None else unit_to_signed(enlarged)
            return self.codec.encode(up, self.sample_latent)

    def latent(self, lq: Tensor, start: Tensor | None = None, keys: list[str] | None = None) -> Tensor:
        """ẑ, the restored latent, float32.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w); scale * h and scale * w are multiples of `multiple`.
            start: z_L where the caller has it already, to spare an encoding.
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        start = self.start(lq) if start is None else start
        timestep = torch.full((lq.shape[0],), self.timestep, device=lq.device)
        prompt = self.prompt(lq, keys)
        with self._one_step(lq):
            output = run_unet(self.unet, start, timestep, prompt)
        if self.residual:
            return at_least_float32(start) - output
        return to_clean(output, start, self.schedule.alpha_bar(timestep, start), self.prediction)

    @property
    def amplifies(self) -> bool:
        """Whether the one step divides rounding errors by a small √ᾱ, see `AMPLIFYING`."""
        return not self.residual and amplifies(float(self.schedule.alpha_bars[self.timestep]), self.prediction)

    def _one_step(self, lq: Tensor) -> AbstractContextManager[object]:
        """Context of the one step: float32 in place of bfloat16 where it amplifies."""
        return without_bfloat16(self.unet, lq.device) if self.amplifies else nullcontext()

    def shared(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """ẑ."""
        return self.latent(lq, keys=keys)

    def latent_at(self, state: Tensor, control: float | Tensor) -> Tensor:
        """ẑ, for t = 0."""
        self.check_control(control)
        return state

    def prepare(self, dtype: torch.dtype) -> list[tuple[nn.Module, torch.dtype]]:
        """Codec and UNet; what computes a step that `amplifies` stays in float32 in place of bfloat16."""
        step = torch.float32 if dtype == torch.bfloat16 and self.amplifies else dtype
        if adapters_of(self.codec):
            self.base_codec = without_adapters(self.codec)
        self.codec, self.unet = merged(self.codec), merged(self.unet)
        codecs = [self.codec] if self.base_codec is None else [self.codec, self.base_codec]
        encoders, decoders = zip(*(codec.halves() for codec in codecs), strict=True)
        networks = [(part, dtype) for decoder in decoders for part in decoder]
        return [(self.unet, step), *((part, step) for encoder in encoders for part in encoder), *networks]

    @torch.no_grad()
    def parts(self, lq: Tensor) -> list[Part]:
        """Encoder, UNet and decoder."""
        start = self.start(lq)
        latent = self.latent(lq, start)
        timestep = torch.full((len(lq),), float(self.timestep), device=lq.device)
        encoder, decoder = self.codec.halves()
        encode, decode = bare_codec(self.codec, self.upsample(lq), latent)
        unet = bare_unet(self.unet, start, timestep, self.prompt(lq))
        return [
            Part("encode z_L = E(up(x))", encoder or [self.codec], lambda: self.start(lq), encode),
            Part("student's UNet", [self.unet], lambda: self.latent(lq, start), unet),
            Part("decode", decoder or [self.codec], lambda: self.decode(latent), decode, per_t=True),
        ]


def load_student_weights(student: OneStepStudent, path: str | Path) -> None:
    """Load trained weights of any known file into a student, strictly; the contents of the file tell which it is.

    Args:
        student: The student; nothing is changed if the weights do not fit.
        path: A `weights.safetensors` or checkpoint of a training with a `student`, `osediff.pkl` or `pisa_sr.pkl`.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it is another file, is damaged, or does not fit; the message lists the first differences.
    """
    contents = None if Path(path).suffix == ".safetensors" else read_file(find_weights(path), EXPECTED)
    if find_format(contents) is not None:
        networks = (student.unet, student.codec.adapted())
        step = {name: getattr(student, name) for name in ("prediction", "residual", "timestep")}
        load_one_step_weights(contents, path, networks, (adapters_of(networks[0]), adapters_of(networks[1])), step)
    elif contents is None or (isinstance(contents, dict) and "state_dict" in contents):
        load_weights(student, path, prefix="student.", only_trainable=True)
    else:
        raise wrong_entries_error(contents, None, path, EXPECTED)
