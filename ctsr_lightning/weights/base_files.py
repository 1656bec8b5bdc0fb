"""Files of a base model, Stable Diffusion, in a folder of diffusers' layout, a single file or on the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ctsr_lightning.weights.hub import first_match, model_folder
from ctsr_lightning.weights.search import find_weights
from ctsr_lightning.weights.single_file import declared_prediction

_SUFFIXES: Final = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl"}


@dataclass(frozen=True)
class BaseFiles:
    """Files of one part of a base: the UNet or the autoencoder."""

    weights: list[Path]
    """Its weight files."""
    config: Path
    """Its config.json, which beside a single file need not exist."""
    home: Path
    """The model's folder, where a scheduler's configuration may be."""
    single: bool = False
    """Whether it is a single file."""
    configured: bool = False
    """Whether the user has named the config.json."""

    @property
    def prediction(self) -> str | None:
        """Prediction of the UNet as the files state it; None if they do not."""
        stated = declared_prediction(self.weights[0]) if self.single else None
        scheduler = self.home / "scheduler" / "scheduler_config.json"
        if stated is None and scheduler.is_file():
            return str(read_config(scheduler).get("prediction_type", "epsilon"))
        return stated

    @property
    def version(self) -> tuple[Any, ...]:
        """Paths, sizes and times of the files: equal only for the same files, unchanged."""
        files = [file.resolve() for file in (*self.weights, self.config) if file.is_file()]
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return (self.configured, *stamps)


def find_base_files(path: str, subfolder: str | None, config: str | None, part: str, class_name: str) -> BaseFiles:
    """Find the files of a part.

    Args:
        path: A folder, a single file or a hub id.
        subfolder: Folder of the part inside a model's folder; None if `path` is the part's own folder.
        config: The config.json of a single file, or its folder; None for the one beside it.
        part: Name of the part, for messages.
        class_name: Name of its class in diffusers, for messages.

    Raises:
        FileNotFoundError: If there is no such model in reach.
        ValueError: If `config` is given for a folder.
    """
    local = Path(path).expanduser()
    if local.is_file() or (local.suffix in _SUFFIXES and not local.is_dir()):
        file = find_weights(local)
        beside = Path(config).expanduser() if config else file.with_name("config.json")
        if beside.is_dir():
            beside /= "config.json"
        return BaseFiles([file], beside, beside.parent.parent, single=True, configured=config is not None)
    if config is not None:
        raise ValueError(
            f"Expected a single file with `config`, found the folder or hub id '{path}', which has its own. "
            "Leave `config` out."
        )
    below = f"{subfolder}/" if subfolder else ""
    kinds = [".safetensors", "-*.safetensors", ".fp16.safetensors", ".fp16-*.safetensors", ".bin", ".fp16.bin"]
    weights = [f"{below}diffusion_pytorch_model{kind}" for kind in kinds]
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
    return BaseFiles(files, home / "config.json", folder if subfolder else folder.parent)


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration in diffusers' layout, a JSON object.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a configuration in diffusers' layout at '{path}', found nothing. Correct the path."
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a JSON file at '{path}', but it cannot be read: {error}. Get it again.") from error
    if not isinstance(read, dict):
        raise ValueError(  # noqa: TRY004  # the file is wrong, not the call
            f"Expected an object of settings in '{path}', found {type(read).__name__}. Get it again."
        )
    return read
