"""A finished chain of trainings, trimmed to what its models need: small enough to come with the package."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctsr_lightning.images import quantize
from ctsr_lightning.inference.restorer import Restorer
from recipes.chain import WEIGHTS

LIMIT: Final = 36_000_000
"""Bytes that a package may have at most."""

CONFIG: Final = "config.yaml"
"""Configuration of a training, beside its weights."""

CONTROLS: Final = (0.0, 0.5, 1.0)
"""Values of t at which the effect of rounding the weights is measured."""

PARTS: Final = {
    "codec": "codec.",
    "prior": "student.",
    "fidelity_teacher": "network.",
    "realness_teacher": "student.",
    "stage1": "student.",
    "stage2": "velocity.",
}
"""Trainings whose weights a package holds, with the prefix of those that restoring, or training both stages from it
(`python -m recipes demo`), needs. The critic served the realistic teacher's training and is left out."""

MODELS: Final = {
    "realness_teacher": ("student",),
    "stage1": ("student", "fidelity", "realness"),
    "stage2": ("student", "velocity", "fidelity", "realness", "velocity_start", "z0_source"),
}
"""Trainings that a model is loaded from, and the settings that are kept: no optimizer, critic or loss."""


class Part(NamedTuple):
    """Weights in one folder of a package: their number and the size of their file."""

    parameters: int
    bytes: int


def pack(runs: Path, package: Path, dtype: torch.dtype = torch.float16) -> dict[str, Part]:
    """Write the weights and the models' configurations of a finished chain in the folder `runs`.

    Weights are rounded to a half type; loaded networks are in float32 all the same. Paths of weights start at the
    package, wherever that is.

    Raises:
        FileNotFoundError: If a training is not complete.
        ValueError: If weights do not fit into the type, the package would be too large, a configuration names weights
            from elsewhere, or the folder holds something else.
    """
    if package.is_dir() and any(path.name not in {*PARTS, "README.md", "card.json"} for path in package.iterdir()):
        raise ValueError(f"Expected an empty folder or an earlier package at '{package}', found other files in it.")
    states = {name: _state(runs / name / WEIGHTS, prefix, dtype) for name, prefix in PARTS.items()}
    models = {name: _model(runs / name / CONFIG, keys) for name, keys in MODELS.items()}
    size = sum(tensor.nbytes for state, _ in states.values() for tensor in state.values())
    if dtype.itemsize == 2 and size > LIMIT:
        raise ValueError(
            f"Expected weights of at most {LIMIT / 1e6:.0f} MB, found {size / 1e6:.1f} MB in '{runs}'. "
            "Train narrower networks: `widths` in configs/network."
        )
    parts = {}
    for name, (state, metadata) in states.items():
        folder = package / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / WEIGHTS, metadata)
        parts[name] = Part(sum(t.numel() for t in state.values()), (folder / WEIGHTS).stat().st_size)
        if name in models:
            text = yaml.safe_dump({"model": models[name]}, sort_keys=False)
            (folder / CONFIG).write_text(text, encoding="utf-8")
    return parts


def rounding_effect(runs: Path, package: Path, crops: Sequence[Tensor]) -> dict[str, float]:
    """Effect of rounding the weights on restorations of low-quality crops, each (B, 3, h, w), at t = 0, 0.5 and 1.

    Returns:
        `changed`, the share of 8-bit values that differ, and `largest`, the largest change in levels.
    """
    with tempfile.TemporaryDirectory() as folder:
        pack(runs, Path(folder), torch.float32)
        exact = Restorer.from_pretrained(Path(folder) / "stage2" / WEIGHTS, "cpu")
    rounded = Restorer.from_pretrained(package / "stage2" / WEIGHTS, "cpu")
    images = [
        torch.cat([quantize(image).flatten() for lq in crops for image in r(lq, CONTROLS)]) for r in (exact, rounded)
    ]
    change = ((images[1] - images[0]) * 255.0).abs().round()
    return {"changed": float((change > 0).float().mean()), "largest": float(change.max())}


def weights_metadata(path: Path) -> dict[str, str]:
    """Entries of a weight file beside the weights: class, steps, decay of the average."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _state(path: Path, prefix: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a training whose names begin with a prefix, rounded, and its metadata."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected the weights of a complete training at '{path}', found nothing.")
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dictionary
        state = {name: file.get_tensor(name).to(dtype).contiguous() for name in names}
    if not state:
        raise ValueError(f"Expected weights named '{prefix}…' in '{path}', found none.")
    infinite = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if infinite:
        raise ValueError(
            f"Expected weights that {dtype} can hold in '{path}', found larger ones, or NaN: {infinite[0]}."
        )
    return state, weights_metadata(path)


def _model(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The model's section of a training's configuration, only these settings, with paths that start at the package."""
    model: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
    kept = {key: _inside(model["init_args"][key], path) for key in keys if key in model["init_args"]}
    return {"class_path": model["class_path"], "init_args": kept}


def _inside(value: Any, path: Path) -> Any:
    """A configuration whose weights lie in the package."""
    if isinstance(value, list):
        return [_inside(item, path) for item in value]
    if not isinstance(value, Mapping):
        return value
    inner = {key: _inside(item, path) for key, item in value.items()}
    if isinstance(weights := value.get("weights"), str):
        *_, folder, file = ("", *Path(weights).parts)
        if file != WEIGHTS or folder not in PARTS:
            raise ValueError(f"Expected only weights of the chain's own trainings in '{path}', found '{weights}'.")
        inner["weights"] = f"{folder}/{file}"
    return inner
