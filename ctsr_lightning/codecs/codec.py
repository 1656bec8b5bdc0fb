"""Autoencoders between images and latents, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from ctsr_lightning.codecs.nano_codec import LappedDecoder, PatchEncoder
from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.weights.reading import give_own_weights, load_strictly, load_weights, read_state


class LatentCodec(nn.Module, ABC):
    """An encoder E and a decoder D: images in [-1, 1] to latents of about unit variance and back.

    Images have sides that are multiples of `factor`.
    """

    factor: int
    """Pixels per latent along each side."""
    channels: int
    """Channels of a latent."""
    tuned: bool = False
    """Whether D was trained by itself since and no longer undoes E."""

    @abstractmethod
    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Encode images.

        Args:
            image: RGB in [-1, 1], shape (B, 3, H, W).
            sample: Draw from the posterior instead of taking its mode, where there is one.

        Returns:
            Latents, shape (B, channels, H / factor, W / factor), in float32 or better also under autocast.
        """

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents of shape (B, channels, h, w) to images (B, 3, factor * h, factor * w), about [-1, 1]."""

    @abstractmethod
    def adapted(self) -> nn.Module:
        """The module whose encoder may carry adapters."""

    def halves(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Parts of E and parts of D that inference may hold in half precision, in one type each.

        `encode` and `decode` then still take float32, cast it, and return float32. Without any, as here, the codec
        computes in float32.
        """
        return [], []

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass, where the codec is large enough for that to pay."""

    def last_layer(self) -> nn.Parameter | None:
        """Weight of D's last convolution; None where D cannot be trained by itself."""
        return None

    def tune_decoder(self) -> list[nn.Parameter]:
        """Make D trainable and E frozen; weights of D that other networks shared become its own.

        Returns:
            D's parameters.

        Raises:
            ValueError: If D cannot be trained by itself.
        """
        if self.last_layer() is None:
            raise ValueError(
                f"Expected a codec whose decoder can be trained, found {type(self).__name__}. Use KLCodec or NanoCodec."
            )
        self.requires_grad_(False)
        for part in self.halves()[1]:
            give_own_weights(part.requires_grad_(True))
        self.tuned = True
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def load_decoder(self, path: str | Path) -> None:
        """Load D from the file of a `DetailTraining`, and leave E as it is.

        Args:
            path: A `weights.safetensors` or checkpoint.

        Raises:
            MissingWeightsError: If there is no such file.
            ValueError: If it holds other weights.
        """
        parts = self.halves()[1]
        for part in parts:
            give_own_weights(part)
        wanted = {id(parameter) for part in parts for parameter in part.parameters()}
        load_strictly(
            self,
            {k.removeprefix("codec."): v for k, v in read_state(path).items() if k.startswith("codec.")},
            path,
            names={name: name for name, parameter in self.named_parameters() if id(parameter) in wanted},
            expected=f"the decoder of {type(self).__name__}, names below 'codec.',",
            remedy="Name what a DetailTraining of this codec wrote.",
        )
        self.tuned = True


class KLCodec(LatentCodec):
    """The autoencoder of latent diffusion models (Stable Diffusion: f = 8, 4 channels, scaling 0.18215).

    Args:
        autoencoder: diffusers' AutoencoderKL; its configuration carries the scaling factor.
        decoder: What a `DetailTraining` wrote, whose decoder takes the place of the autoencoder's; null for none.
    """

    def __init__(self, autoencoder: AutoencoderKL, decoder: Path | None = None) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self.channels = autoencoder.config.latent_channels
        if decoder is not None:
            self.load_decoder(decoder)

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Mode (or a sample) of the posterior times the scaling factor."""
        image = in_its_type(self.autoencoder.encoder, image)
        moments = at_least_float32(self.autoencoder.encode(image).latent_dist.parameters)
        posterior = DiagonalGaussianDistribution(moments)
        latent: Tensor = posterior.sample() if sample else posterior.mode()
        return latent * self.autoencoder.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents divided by the scaling factor."""
        latent = in_its_type(self.autoencoder.decoder, latent / self.autoencoder.config.scaling_factor)
        image: Tensor = self.autoencoder.decode(latent).sample
        return image

    def adapted(self) -> nn.Module:
        """The autoencoder."""
        return self.autoencoder

    def halves(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Encoder and decoder with their 1x1 convolutions, where the autoencoder has these."""
        whole = self.autoencoder
        encoder, decoder = [whole.encoder, whole.quant_conv], [whole.decoder, whole.post_quant_conv]
        return [part for part in encoder if part is not None], [part for part in decoder if part is not None]

    def enable_gradient_checkpointing(self) -> None:
        """Checkpoint the blocks of encoder and decoder, which dominate memory at 512 pixels."""
        self.autoencoder.enable_gradient_checkpointing()

    def last_layer(self) -> nn.Parameter:
        """The decoder's `conv_out`."""
        weight: nn.Parameter = self.autoencoder.decoder.conv_out.weight
        return weight


class NanoCodec(LatentCodec):
    """A small autoencoder at f = 4 that starts as a discrete cosine transform and needs next to no training.

    Encoder and decoder are each a linear transform of 4x4 patches plus convolutions. The decoder's patches overlap, and
    constant latents decode to a constant image, so that no lattice can be painted through it, see `LappedDecoder`. At
    f = 4 the latent grid of a x4 task is the grid of the low-quality image.

    Args:
        channels: Channels of the latent, at most 48 (all coefficients of a 4x4 RGB patch).
        width: Channels of the encoder's convolutions.
        decoder_widths: Channels of the decoder's, at one, two and four times the latent's size.
        weights: A `weights.safetensors` or checkpoint of a codec training; None starts from the transform alone.
        decoder: What a `DetailTraining` wrote, whose decoder takes the place of this one; null for none.
    """

    factor = 4

    def __init__(
        self,
        channels: int = 24,
        width: int = 64,
        decoder_widths: tuple[int, int, int] = (48, 32, 16),
        weights: Path | None = None,
        decoder: Path | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = PatchEncoder(channels, width)
        self.decoder = LappedDecoder(channels, decoder_widths)
        if weights is not None:
            load_weights(self, weights, prefix="codec.")
        if decoder is not None:
            self.load_decoder(decoder)

    def encode(self, image: Tensor, sample: bool = False) -> Tensor:
        """Encode; there is no posterior to sample from, so `sample` is refused."""
        if sample:
            raise ValueError("NanoCodec is deterministic: it has no posterior to sample from. Use sample=False.")
        return at_least_float32(self.encoder(in_its_type(self.encoder, image)))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode."""
        image: Tensor = self.decoder(in_its_type(self.decoder, latent))
        return image

    def adapted(self) -> nn.Module:
        """The codec itself."""
        return self

    def halves(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Encoder and decoder."""
        return [self.encoder], [self.decoder]

    def last_layer(self) -> nn.Parameter:
        """The last convolution at the image's size."""
        return self.decoder.get_parameter(f"fine.{len(self.decoder.fine) - 1}.weight")


def in_its_type(network: nn.Module, tensor: Tensor) -> Tensor:
    """A network's input in the type of its weights.

    Args:
        network: The network.
        tensor: Its input, floating-point.
    """
    return tensor.to(next(network.parameters()).dtype)


def unit_to_signed(image: Tensor) -> Tensor:
    """Map [0, 1] to the [-1, 1] that networks see."""
    return image * 2.0 - 1.0


def signed_to_unit(image: Tensor) -> Tensor:
    """Map [-1, 1] back to [0, 1]; values outside are kept, so that gradients flow."""
    return at_least_float32(image) * 0.5 + 0.5
