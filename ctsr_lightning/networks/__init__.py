"""The student, its codec, adapters, prompts and the loaders of pretrained parts."""

from ctsr_lightning.networks.adapters import LoRA
from ctsr_lightning.networks.codec import KLCodec, LatentCodec, NanoCodec
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.pretrained import load_autoencoder, load_unet, nano_unet
from ctsr_lightning.networks.prompts import FixedPrompt, NoPrompt, Prompt, TextPrompt
from ctsr_lightning.networks.residual_shift import ResidualShiftNetwork
from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.networks.tradeoff import TradeOff
from ctsr_lightning.networks.velocity import VelocityField

__all__ = (
    "FixedPrompt",
    "Frozen",
    "KLCodec",
    "LatentCodec",
    "LoRA",
    "NanoCodec",
    "NoPrompt",
    "OneStepStudent",
    "Prompt",
    "ResidualShiftNetwork",
    "TextPrompt",
    "TradeOff",
    "VelocityField",
    "load_autoencoder",
    "load_unet",
    "nano_unet",
)
