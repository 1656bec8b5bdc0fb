"""Merged models as folders: with diffusers' subfolders, or with all weights in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import diffusers
import yaml
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from ctsr_lightning import __version__
from ctsr_lightning.files import file_hash
from ctsr_lightning.inference.card import write_card
from ctsr_lightning.inference.loading import read_configuration
from ctsr_lightning.inference.merged import MERGED, merged_weights, roots
from ctsr_lightning.inference.pretrained import CONFIG, KEPT, USE, WEIGHTS
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import TradeOff
from ctsr_lightning.prompts.base import Prompt

INDEX: Final = "model_index.json"
"""Diffusers' list of the parts of a folder."""
PROMPT: Final = "prompt.safetensors"
"""Embedding of a prompt that is the same for every image."""
_WEIGHTS_OF_PART: Final = "diffusion_pytorch_model.safetensors"
_DROPPED: Final = frozenset({"lora", "encoder_lora", "weights", "decoder", "gradient_checkpointing"})
"""Settings that the weights themselves have taken in, or that only training needs."""
_BUILDERS: Final[dict[type[nn.Module], str]] = {
    UNet2DConditionModel: "ctsr_lightning.networks.stable_diffusion.unet_of",
    AutoencoderKL: "ctsr_lightning.networks.stable_diffusion.autoencoder_of",
}


def write_folder(restorer: Restorer, folder: Path) -> None:
    """Write a model with its UNets and its autoencoder as subfolders that plain diffusers reads.

    `unet`, `velocity_unet` and, of a KL autoencoder, `vae`; all else is in `weights.safetensors`.

    Args:
        restorer: The model, read from a file.
        folder: An empty folder.

    Raises:
        ValueError: If the format cannot hold the model.
    """
    check_mergeable(restorer)
    networks, files = diffusers_networks(restorer), dict[str, str]()
    for path, network in networks.items():
        name = _folder_name(path, networks)
        network.save_config(folder / name)
        state = {key: tensor.detach().cpu().clone() for key, tensor in network.state_dict().items()}
        save_file(state, folder / name / _WEIGHTS_OF_PART, {"format": "pt"})
        files[f"{path}."] = f"{name}/{_WEIGHTS_OF_PART}"
    prediction = getattr(getattr(restorer.model, "student", restorer.model), "prediction", None)
    if prediction is not None:
        schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
        DDPMScheduler(**schedule, prediction_type=prediction).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {"_class_name": "CTSRRestorer", "_diffusers_version": diffusers.__version__}
    index |= {_folder_name(path, networks): ["diffusers", type(one).__name__] for path, one in networks.items()}
    index |= {"scheduler": ["diffusers", "DDPMScheduler"]} if prediction is not None else {}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _write(restorer, folder, files)


def write_safetensors(restorer: Restorer, folder: Path) -> None:
    """Write a model with all weights in one `weights.safetensors`, its configuration beside it.

    Args:
        restorer: The model, read from a file.
        folder: An empty folder.

    Raises:
        ValueError: If the format cannot hold the model.
    """
    check_mergeable(restorer)
    _write(restorer, folder, {})


def check_mergeable(restorer: Restorer) -> None:
    """Refuse a model that needs a network twice, with and without its adapters.

    Args:
        restorer: The model.

    Raises:
        ValueError: If it is one.
    """
    model = restorer.model
    if isinstance(model, TradeOff) and model.z0_source == "reencode" and model.student.base_codec is not None:
        raise ValueError(
            "Expected a model whose adapters can be merged, found `z0_source: reencode` with adapters on the encoder: "
            "z_0 is encoded without them, z_L with them, and the format holds one encoder. Use "
            "Restorer.save_pretrained, which keeps adapters."
        )


def diffusers_networks(restorer: Restorer) -> dict[str, Any]:
    """The UNets and autoencoders of diffusers in a model, by their path in its configuration.

    Args:
        restorer: The model.
    """
    names = merged_weights(restorer.model)
    return {
        path: module
        for path, module in roots(restorer.model).named_modules()
        if type(module) in _BUILDERS and any(name.startswith(f"{path}.") for name in names)
    }


def _folder_name(path: str, networks: Mapping[str, nn.Module]) -> str:
    """Name of a network's subfolder: diffusers' own, with what tells it from others before it."""
    owner, _, last = path.rpartition(".")
    name = {"autoencoder": "vae"}.get(last, last)
    namesakes = [other for other in networks if other.rpartition(".")[2] == last]
    return name if path == namesakes[0] else f"{owner.replace('.', '_')}_{name}"


def _write(restorer: Restorer, folder: Path, files: dict[str, str]) -> None:
    """Write configuration, remaining weights, the prompt, card and licence."""
    assert restorer.source is not None
    configuration = read_configuration(restorer.source)
    values = {key: configuration[key] for key in KEPT if configuration.get(key) is not None}
    networks = diffusers_networks(restorer)
    built = {
        path: {"class_path": _BUILDERS[type(network)], "init_args": {"config": _settings(network)}}
        for path, network in networks.items()
    }
    prompts = {path: module for path, module in roots(restorer.model).named_modules() if isinstance(module, Prompt)}
    for path, prompt in prompts.items():
        if (embedding := _constant(prompt)) is not None:
            save_file({"embedding": embedding}, folder / PROMPT)
            built[path] = {"class_path": "ctsr_lightning.prompts.FixedPrompt", "init_args": {"path": PROMPT}}
    state = merged_weights(restorer.model)
    rest = {
        name: tensor.detach().cpu().clone().contiguous()  # clones: networks over one base have tensors in common
        for name, tensor in state.items()
        if not name.startswith(tuple(files))
    }
    hashes = {name: file_hash(folder / name) for name in files.values()}  # so that other parts make another model
    save_file(rest, folder / WEIGHTS, {"format": "pt", "ctsr_lightning": __version__, **hashes})
    model = {"class_path": configuration["_class_path"], "init_args": _merged(values, built)}
    text = yaml.safe_dump({"model": model, MERGED: files}, sort_keys=False)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    write_card(folder, restorer.source, restorer.model, configuration, USE)


def _merged(value: Any, built: Mapping[str, Any], path: str = "") -> Any:
    """A configuration without adapters and weight files, whose networks are built from their settings."""
    if not isinstance(value, Mapping):
        return [_merged(item, built) for item in value] if isinstance(value, list) else value
    if "class_path" in value:
        return {**value, "init_args": _merged(value.get("init_args") or {}, built, path)}
    found: dict[str, Any] = {}
    for key in (key for key in value if key not in _DROPPED):
        here = f"{path}.{key}" if path else key
        found[key] = built[here] if here in built else _merged(value[key], built, here)
    return found | ({"velocity_start": "base"} if "velocity_start" in found else {})


def _settings(network: Any) -> dict[str, Any]:
    """The configuration of a network of diffusers, as in its config.json."""
    settings: dict[str, Any] = json.loads(network.to_json_string())
    return {key: value for key, value in settings.items() if key != "_name_or_path"}


def _constant(prompt: Prompt) -> Tensor | None:
    """Embedding of a prompt that no image changes, shape (L, D)."""
    embedding = None if prompt.varies else getattr(prompt, "embedding", None)
    return embedding[0].detach().float().cpu().contiguous() if isinstance(embedding, Tensor) else None
