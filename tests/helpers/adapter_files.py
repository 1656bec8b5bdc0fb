"""`osediff.pkl` and `pisa_sr.pkl` from plain diffusers and peft, the way their authors' trainings make them.

Nothing of the package is used here: these files are what its readers are judged by.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import nn

GREP = ["to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out"]
UNET_GREP = [*GREP, "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj"]
GROUPS = ("encoder", "decoder", "others")

SD21_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SD15_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD_AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}


def weights_of(module: nn.Module) -> list[str]:
    """Modules with a weight that is no norm's."""
    names = [name for name, _ in module.named_parameters()]
    return [name.removesuffix(".weight") for name in names if "bias" not in name and "norm" not in name]


def unet_lists(unet: nn.Module) -> dict[str, list[str]]:
    """The adapted modules of a UNet."""
    lists: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in weights_of(unet):
        if any(part in name for part in UNET_GREP):
            down, up = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
            lists["encoder" if down else "decoder" if up else "others"].append(name)
    return lists


def encoder_list(autoencoder: nn.Module) -> list[str]:
    """The adapted modules of an autoencoder, many of them more than once."""
    return [
        name
        for name in weights_of(autoencoder)
        for part in GREP
        if (part in name and "encoder" in name) or ("quant_conv" in name and "post_quant_conv" not in name)
    ]


def adapt(module: Any, adapters: dict[str, list[str]], rank: int, **options: Any) -> None:
    """Add adapters through diffusers; all that were ever added are active."""
    for name, targets in adapters.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*multiple adapters.*", UserWarning)
            config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=targets, **options)
            module.add_adapter(config, adapter_name=name)
    module.set_adapter(list(module.peft_config))


def randomize(module: nn.Module, *parts: str, scale: float = 0.1, seed: int = 0) -> None:
    """Give every weight whose name contains one of these parts random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if any(part in name for part in parts) and not parameter.is_meta:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def osediff(unet: UNet2DConditionModel, autoencoder: AutoencoderKL, rank: int = 4, **options: Any) -> dict[str, Any]:
    """Adapt both networks in place and answer with the contents of `osediff.pkl`."""
    lists, encoder = unet_lists(unet), encoder_list(autoencoder)
    adapt(unet, {f"default_{group}": names for group, names in lists.items()}, rank, **options)
    adapt(autoencoder, {"default_encoder": encoder}, rank, **options)
    randomize(unet, "lora", "conv_in")
    randomize(autoencoder, "lora", seed=1)
    return {
        "vae_lora_encoder_modules": encoder,
        **{f"unet_lora_{group}_modules": names for group, names in lists.items()},
        "rank_unet": rank,
        "rank_vae": rank,
        "state_dict_unet": {k: v.clone() for k, v in unet.state_dict().items() if "lora" in k or "conv_in" in k},
        "state_dict_vae": {k: v.clone() for k, v in autoencoder.state_dict().items() if "lora" in k},
    }


def pisa(unet: UNet2DConditionModel, rank_pix: int = 4, rank_sem: int = 4, **options: Any) -> dict[str, Any]:
    """Adapt a UNet in place and answer with the contents of `pisa_sr.pkl`."""
    lists, ranks = unet_lists(unet), {"pix": rank_pix, "sem": rank_sem}
    for half, rank in ranks.items():
        adapt(unet, {f"default_{group}_{half}": names for group, names in lists.items()}, rank, **options)
    randomize(unet, "lora")
    return {
        **{f"unet_lora_{group}_modules_{half}": names for half in ranks for group, names in lists.items()},
        **{f"lora_rank_unet_{half}": rank for half, rank in ranks.items()},
        "state_dict_unet": {k: v.clone() for k, v in unet.state_dict().items() if "lora" in k},
    }


def filled(contents: dict[str, Any]) -> dict[str, Any]:
    """The same contents with numbers in place of meta tensors."""
    return {
        key: {k: torch.randn(v.shape) for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in contents.items()
    }
