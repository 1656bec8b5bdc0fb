"""Stable Diffusion in one file: its layouts of names, and the description of other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import yaml
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import safe_open
from torch import Tensor

from ctsr_lightning.weights.reading import read_file

Part = Literal["unet", "autoencoder"]

_LDM_UNET: Final = "model.diffusion_model."
_LDM_VAE: Final = "first_stage_model."
_VAE_PARTS: Final = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_OLD_ATTENTION: Final = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of the autoencoder's attention in files of older diffusers, Stable Diffusion's published folders among them."""

STABLE_DIFFUSION_UNET: Final[dict[int, dict[str, Any]]] = {
    1024: {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    768: {"cross_attention_dim": 768, "attention_head_dim": 8},
}
"""Settings in which the published UNets differ, by the width of their prompts: 2.x and Turbo, and 1.x."""
STABLE_DIFFUSION_VAE: Final[dict[str, Any]] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "sample_size": 512,
}
"""The published autoencoder of 1.x and 2.x."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or PyTorch file; nothing in it is executed, nothing is copied yet.

    Args:
        path: The file. A PyTorch file holds a state dict, or one below `state_dict`.

    Raises:
        ValueError: If it is damaged, holds code, or holds no tensors.
    """
    found = read_file(path, "a file of weights", mapped=True)
    inner = found.get("state_dict", found) if isinstance(found, dict) else found
    tensors = {k: v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, dict) else {}
    if not tensors:
        shown = ", ".join(map(str, list(inner)[:5])) if isinstance(inner, dict) else type(inner).__name__
        raise ValueError(f"Expected named tensors in '{path}', found none in it, but {shown}. Name another file.")
    return tensors


def declared_prediction(path: Path) -> str | None:
    """Prediction of a single file's UNet, in diffusers' words; None where neither file nor companion states it.

    A safetensors file may state it in its header (`modelspec.prediction_type`), any other in the original configuration
    (`parameterization`) that lies beside it under the same name.

    Args:
        path: The file.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            said = (opened.metadata() or {}).get("modelspec.prediction_type")
        if said is not None:
            return {"v": "v_prediction", "eps": "epsilon"}.get(said, said)
    companion = path.with_suffix(".yaml")
    if not companion.is_file():
        return None
    settings = yaml.safe_load(companion.read_text(encoding="utf-8"))
    model = settings.get("model") if isinstance(settings, dict) else None
    said = (model.get("params") or {}).get("parameterization", "eps") if isinstance(model, dict) else None
    return {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}.get(str(said))


def select(tensors: dict[str, Tensor], part: Part, source: Path) -> tuple[dict[str, Tensor], bool]:
    """Take one part of Stable Diffusion out of a file.

    Where a file holds raw weights and their moving averages (`model_ema.`), the averages are taken, as in the published
    folders.

    Args:
        tensors: All tensors of the file.
        part: Which part.
        source: The file, for messages.

    Returns:
        The part's tensors, and whether they have the original (latent diffusion) names.

    Raises:
        ValueError: If the file does not hold this part; the message describes what it holds.
    """
    if part == "unet":
        inner = _below(tensors, _LDM_UNET) or tensors
        if "input_blocks.0.0.weight" in inner and "label_emb.0.0.weight" not in inner:
            names = {k: "model_ema.diffusion_model" + k.replace(".", "") for k in inner}
            return {k: tensors.get(names[k], v) for k, v in inner.items()}, True
        if "conv_in.weight" in inner and any(k.startswith("down_blocks.") for k in inner):
            return inner, False
    else:
        inner = _below(tensors, _LDM_VAE) or tensors
        own = {k: v for k, v in inner.items() if k.startswith(_VAE_PARTS)}  # beside them may be losses, averages
        if not any(k.startswith("quantize.") for k in inner) and "quant_conv.weight" in own:
            if "encoder.down.0.block.0.conv1.weight" in own:
                return own, True
            if "encoder.down_blocks.0.resnets.0.conv1.weight" in own:
                return own, False
    expected = "a Stable Diffusion UNet" if part == "unet" else "a Stable Diffusion autoencoder (KL, with a quant_conv)"
    raise ValueError(
        f"Expected the weights of {expected} in '{source}', found {describe(tensors)}. Name the file of the "
        f"{'UNet' if part == 'unet' else 'autoencoder'}, or one that holds the whole of Stable Diffusion."
    )


def guess_config(tensors: dict[str, Tensor], part: Part, original: bool, source: Path) -> dict[str, Any]:
    """The published configuration that a part's tensors belong to.

    Args:
        tensors: The part's tensors.
        part: Which part.
        original: Whether they have the original names.
        source: The file, for messages.

    Raises:
        ValueError: If it is none of those published.
    """
    if part == "autoencoder":
        return dict(STABLE_DIFFUSION_VAE)
    width = next((v.shape[1] for k, v in tensors.items() if k.endswith("attn2.to_k.weight")), 0)
    if width not in STABLE_DIFFUSION_UNET:
        found = f"one with prompts {width} wide" if width else "one without prompts (ResShift's, perhaps)"
        raise ValueError(
            f"Expected a UNet of Stable Diffusion 1 or 2 in '{source}' (prompts 768 or 1024 wide), found {found}. For "
            "another architecture set `config` to its config.json in diffusers' layout."
        )
    entry = tensors["input_blocks.0.0.weight" if original else "conv_in.weight"]
    return {"sample_size": 64, "in_channels": entry.shape[1], **STABLE_DIFFUSION_UNET[width]}


def rename(tensors: dict[str, Tensor], part: Part, original: bool, config: dict[str, Any]) -> dict[str, Tensor]:
    """Give tensors the names that diffusers' networks have today.

    Args:
        tensors: The part's tensors.
        part: Which part.
        original: Whether they have the original names.
        config: The network's whole configuration.
    """
    if original and part == "unet":
        whole = {_LDM_UNET + k: v for k, v in tensors.items()}
        return dict(convert_ldm_unet_checkpoint(whole, config))
    if original:
        return dict(convert_ldm_vae_checkpoint(dict(tensors), config))
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        if part == "autoencoder" and ".attentions." in name:
            for old, today in _OLD_ATTENTION.items():
                new = new.replace(old, today)
        renamed[new] = tensor[:, :, 0, 0] if new != name and tensor.dim() == 4 else tensor
    return renamed


def describe(tensors: dict[str, Tensor]) -> str:
    """Description of a file's tensors by the models that their names belong to."""
    signs = {
        "a vector-quantised autoencoder (VQ, keys `quantize.`)": ("quantize.",),
        "the whole of Stable Diffusion XL or another conditioned on labels": (f"{_LDM_UNET}label_emb.", "label_emb."),
        "Stable Diffusion's UNet alone": (_LDM_UNET, "input_blocks.0.0.", "down_blocks.0.resnets."),
        "a KL autoencoder": (_LDM_VAE, "encoder.down.0.", "encoder.down_blocks.0."),
        "a text encoder": ("text_model.", "cond_stage_model.", "transformer.resblocks."),
        "weights of one of this package's trainings": ("student.", "velocity.", "network."),
    }
    found = [what for what, starts in signs.items() if any(k.startswith(starts) for k in tensors)]
    shown = ", ".join(sorted(tensors)[:3])
    return f"{' and '.join(found) or 'something else'} ({len(tensors)} tensors: {shown}, …)"


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
