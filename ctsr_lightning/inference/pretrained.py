"""Trained models by name: the shipped one, files, folders and hub ids, and the folder that a model is saved as."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import yaml
from safetensors.torch import save_file

from ctsr_lightning import __version__
from ctsr_lightning.files import file_hash
from ctsr_lightning.inference.card import CARD, LICENCE, write_card
from ctsr_lightning.inference.loading import read_configuration
from ctsr_lightning.inference.merged import MERGED
from ctsr_lightning.models import RestorationModel
from ctsr_lightning.weights.hub import model_folder
from ctsr_lightning.weights.reading import read_state
from ctsr_lightning.weights.search import find_weights, weight_search_path
from ctsr_lightning.weights.shipped import SHIPPED, shipped_model

WEIGHTS: Final = "weights.safetensors"
"""Weights of a training, with its configuration beside them."""
CONFIG: Final = "config.yaml"
"""Configuration of a training."""
PARTS: Final = "parts"
"""Folder of the weights that a saved model builds on: its codec, its base where that was trained here."""
KEPT: Final = ("student", "velocity", "velocity_start", "z0_source")
"""Parts of a training that restore images."""

USE: Final = (
    "```python",
    "import ctsr_lightning as ctsr",
    "",
    'model = ctsr.Restorer.from_pretrained("FOLDER")  # or a hub id',
    'image = model(ctsr.read_image("photo.jpg"), t=0)',
    "```",
    "",
    "or `ctsr upscale photos/ restored/ --checkpoint FOLDER`.",
)
"""How a folder is read, for its card."""


def find_model(name: str | Path) -> Path:
    """File of a trained model.

    Args:
        name: As in `Restorer.from_pretrained`; a file or folder of the name comes before the shipped model.

    Raises:
        FileNotFoundError: If there is no such model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _inside(path)
    if path.is_file() or path.suffix in {".ckpt", ".safetensors"}:
        return path
    if str(name) == SHIPPED:
        return shipped_model()
    what = f"a model ({WEIGHTS} and {CONFIG})"
    wanted = [CONFIG, CARD, LICENCE, "*/*.safetensors", "*/*config.json", "*.json", "prompt.safetensors"]
    return _inside(model_folder(str(name), wanted, [WEIGHTS], what))


def describe_model(source: Path | None) -> str:
    """Name of a model for records.

    Args:
        source: The file that it was read from; None for one that was built in memory.
    """
    if source is None:
        return "a model built in memory"
    return f"{SHIPPED} (shipped with ctsr_lightning {__version__})" if source == shipped_model() else str(source)


def identify_model(source: Path) -> str:
    """What tells a model from others: a hash of its file, and of the configuration beside it where that belongs to it.

    Args:
        source: The file that it is read from.

    Raises:
        FileNotFoundError: If it is not there.
    """
    path = find_weights(source)
    beside = path.with_name(CONFIG)
    files = [path, *([beside] if path.suffix == ".safetensors" and beside.is_file() else [])]
    return "+".join(file_hash(file)[:12] for file in files)


def save_model(source: Path | None, folder: Path, model: RestorationModel) -> None:
    """Write what a model needs to be read anywhere: see `Restorer.save_pretrained`.

    Args:
        source: The checkpoint or weight file that the model was read from; None for one that was built in memory.
        folder: The folder to write.
        model: The model, for its card.

    Raises:
        ValueError: If there is no such file, the folder holds other files, or the model was exported, so that its
            folder is what to copy.
    """
    if source is None:
        raise ValueError(
            "Expected a model that was read by `from_pretrained`: one that was built in memory has no configuration to "
            "write. Save a checkpoint of its training instead."
        )
    folder = folder.expanduser()
    own = {WEIGHTS, CONFIG, PARTS, CARD, LICENCE} if (folder / WEIGHTS).is_file() else set()
    if folder.is_dir() and (other := sorted({p.name for p in folder.iterdir()} - own)):
        raise ValueError(f"Expected a new or empty folder at '{folder}', found {', '.join(other[:3])} in it.")
    configuration = read_configuration(source)
    if MERGED in configuration:
        raise ValueError(
            f"Expected a model as a training leaves it, found an exported one. Copy its folder '{source.parent}'."
        )
    kept = {key: configuration[key] for key in KEPT if configuration.get(key) is not None}
    prefixes = ("student.", "velocity.") if "velocity" in kept else ("student.", "codec.")
    state = {name: tensor.contiguous() for name, tensor in read_state(source).items() if name.startswith(prefixes)}
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    with weight_search_path(*source.expanduser().resolve().parents):
        kept = _collected(kept, folder, {})
    save_file(state, folder / WEIGHTS, {"format": "pt", "ctsr_lightning": __version__})
    contents = {"model": {"class_path": configuration["_class_path"], "init_args": kept}}
    (folder / CONFIG).write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    write_card(folder, source, model, configuration, USE)


def _collected(value: Any, folder: Path, copies: dict[Path, str]) -> Any:
    """A configuration whose weight files are copies inside a folder; `copies` tells which file went where."""
    if isinstance(value, list):
        return [_collected(item, folder, copies) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _copied(item, folder, copies)
        if key in {"weights", "decoder"} and isinstance(item, str | Path)
        else _collected(item, folder, copies)
        for key, item in value.items()
    }


def _copied(weights: str | Path, folder: Path, copies: dict[Path, str]) -> str:
    """Path, below a folder, of the copy of a weight file there."""
    found = find_weights(weights).resolve()
    if found not in copies:
        copies[found] = f"{PARTS}/{len(copies)}_{found.parent.name}{found.suffix}"
        copyfile(found, folder / copies[found])
    return copies[found]


def _inside(folder: Path) -> Path:
    """The weights in the folder of a model."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"Expected a trained model in the folder '{folder}', found no {WEIGHTS} there. Name the folder of one "
            "training, such as runs/nano/stage2, or a checkpoint."
        )
    return folder / WEIGHTS
