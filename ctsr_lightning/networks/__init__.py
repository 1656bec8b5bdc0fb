"""Networks: the student, its codec and adapters, the networks of the teachers."""

from ctsr_lightning.networks.codec import KLCodec, LatentCodec, NanoCodec
from ctsr_lightning.networks.expert_network import ExpertNetwork, read_expert
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.latent_resshift import LatentResShift
from ctsr_lightning.networks.lora import LoRA
from ctsr_lightning.networks.nano import nano_unet
from ctsr_lightning.networks.published_resshift import PublishedResShift, load_resshift, load_sinsr
from ctsr_lightning.networks.stable_diffusion import load_autoencoder, load_unet
from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.networks.tradeoff import TradeOff
from ctsr_lightning.networks.velocity import VelocityField
from ctsr_lightning.networks.vq import VQCodec, load_vq_codec, vq_autoencoder

__all__ = (
    "ExpertNetwork",
    "Frozen",
    "KLCodec",
    "LatentCodec",
    "LatentResShift",
    "LoRA",
    "NanoCodec",
    "OneStepStudent",
    "PublishedResShift",
    "SwinUNet",
    "TradeOff",
    "VQCodec",
    "VelocityField",
    "load_autoencoder",
    "load_resshift",
    "load_sinsr",
    "load_unet",
    "load_vq_codec",
    "nano_unet",
    "read_expert",
    "vq_autoencoder",
)
