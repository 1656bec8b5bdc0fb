"""Models whose weights are all in their own files, adapters merged: nothing else has to be found to read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from ctsr_lightning.models import OneStepStudent, RestorationModel, TradeOff
from ctsr_lightning.weights.reading import load_strictly, read_file

MERGED: Final = "merged"
"""Entry of a `config.yaml`: the files that hold weights besides `weights.safetensors`, by the beginning of their names.
"""


def roots(model: RestorationModel) -> nn.ModuleDict:
    """The networks of a model, under the names that a training's configuration has for them.

    Args:
        model: The model.
    """
    if isinstance(model, TradeOff):
        return nn.ModuleDict({"student": model.student, "velocity": model.velocity})
    return nn.ModuleDict({"student": model})


def merged_weights(model: RestorationModel) -> dict[str, Tensor]:
    """Weights by name; those of a module that is in two places have the first one's name.

    The codec without adapters that a merged student keeps for scores is left out.

    Args:
        model: The model, its adapters merged.
    """
    bases = {id(part.base_codec) for part in model.modules() if isinstance(part, OneStepStudent) and part.base_codec}
    within = {id(child) for part in model.modules() if id(part) in bases for child in part.modules()}
    return {
        f"{path}.{name}": tensor
        for path, module in roots(model).named_modules()
        if id(module) not in within
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }


def load_merged(model: RestorationModel, path: Path, files: Mapping[str, Any]) -> RestorationModel:
    """Give a model all of its weights, strictly.

    Args:
        model: The model; its weights may be on `meta`.
        path: Its `weights.safetensors`.
        files: Further files below its folder, by the beginning of the names of what they hold.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If one lies outside the folder or is damaged, or names or shapes differ.
    """
    state = read_file(path, "a safetensors file")
    for beginning, name in files.items():
        file = path.parent / str(name)
        if path.parent.resolve() not in file.resolve().parents or file.suffix != path.suffix:
            raise ValueError(
                f"Expected safetensors files below '{path.parent}' in its config.yaml, found '{name}'. Get it again."
            )
        if not file.is_file():
            raise FileNotFoundError(
                f"Expected the weights '{name}' of the model in '{path.parent}', found nothing. Copy the whole folder."
            )
        state |= {beginning + key: tensor for key, tensor in read_file(file, "a safetensors file").items()}
    load_strictly(
        roots(model),
        {name: tensor.clone() for name, tensor in state.items()},  # aligned, unlike in a file: the same sums everywhere
        path,
        names={name: name for name in merged_weights(model)},
        expected=f"all weights of {type(model).__name__}",
        remedy="Export the model again.",
        assign=True,
    )
    return model
