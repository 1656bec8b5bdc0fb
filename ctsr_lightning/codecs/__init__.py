"""Codecs: autoencoders between images and the latents that the networks work on."""

from ctsr_lightning.codecs.codec import KLCodec, LatentCodec, NanoCodec
from ctsr_lightning.codecs.pixel import PixelCodec
from ctsr_lightning.codecs.vq import VQCodec, load_vq_codec, vq_autoencoder

__all__ = ("KLCodec", "LatentCodec", "NanoCodec", "PixelCodec", "VQCodec", "load_vq_codec", "vq_autoencoder")
