"""Networks: denoisers, their adapters, the velocity field, the networks of the teachers."""

from ctsr_lightning.networks.dino import DinoMaps
from ctsr_lightning.networks.discriminator import Discriminator, FeatureMaps
from ctsr_lightning.networks.expert_network import ExpertNetwork, read_expert
from ctsr_lightning.networks.flow_network import FlowNetwork
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.guided_denoiser import GuidedByControlNet, GuidedByInput, GuidedDenoiser
from ctsr_lightning.networks.latent_resshift import LatentResShift
from ctsr_lightning.networks.lora import LoRA
from ctsr_lightning.networks.nano import nano_unet
from ctsr_lightning.networks.published_resshift import PublishedResShift, load_resshift, load_sinsr
from ctsr_lightning.networks.stable_diffusion import load_autoencoder, load_unet
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.networks.velocity import VelocityField

__all__ = (
    "DinoMaps",
    "Discriminator",
    "ExpertNetwork",
    "FeatureMaps",
    "FlowNetwork",
    "Frozen",
    "GuidedByControlNet",
    "GuidedByInput",
    "GuidedDenoiser",
    "LatentResShift",
    "LoRA",
    "PublishedResShift",
    "SwinUNet",
    "VelocityField",
    "load_autoencoder",
    "load_resshift",
    "load_sinsr",
    "load_unet",
    "nano_unet",
    "read_expert",
)
