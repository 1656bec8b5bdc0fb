"""Published restoration networks in small: random weights under the names that their authors give them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ctsr_lightning.teachers import ExpertTeacher

GROWTH = 32
"""Channels that each convolution of an RRDB adds."""


class _Drawn(dict[str, Tensor]):
    """Weights that are drawn as they are named."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        """A convolution of 3 x 3 pixels."""
        weight = torch.randn(outputs, inputs, 3, 3, generator=self.generator)
        self[f"{name}.weight"] = gain * weight / (9 * inputs) ** 0.5
        self[f"{name}.bias"] = 0.05 * gain * torch.randn(outputs, generator=self.generator)


def compact(scale: int = 4, channels: int = 3, width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Real-ESRGAN's compact network (`realesr-general-x4v3`): nearest-neighbour enlargement and a correction."""
    state = _Drawn(seed)
    state.conv("body.0", channels, width)
    state["body.1.weight"] = torch.full((width,), 0.2)
    state.conv("body.2", width, width)
    state["body.3.weight"] = torch.full((width,), 0.2)
    state.conv("body.4", width, channels * scale**2, gain=0.1)
    return dict(state)


def rrdb(scale: int = 4, width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Real-ESRGAN's RRDBNet (`RealESRGAN_x4plus`, `RealESRGAN_x2plus`); at x2 it starts by folding 2 x 2 pixels."""
    state = _Drawn(seed)
    state.conv("conv_first", 3 * (4 // scale) ** 2, width)
    for block in range(3):
        for i in range(5):
            outputs = GROWTH if i < 4 else width
            state.conv(f"body.0.rdb{block + 1}.conv{i + 1}", width + GROWTH * i, outputs)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        state.conv(name, width, width)
    state.conv("conv_last", width, 3, gain=0.3)
    state["conv_last.bias"] += 0.5
    return dict(state)


def saved(path: Path, state: dict[str, Tensor] | None = None, wrap: str | None = "params_ema") -> Path:
    """Write weights as their authors do: below an entry of a PyTorch file, or as safetensors."""
    state = compact() if state is None else state
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        contents: Any = state if wrap is None else {wrap: state}
        torch.save(contents, path)
    return path


def expert_teacher(state: dict[str, Tensor] | None = None, scale: int = 4) -> ExpertTeacher:
    """A teacher on such weights."""
    with TemporaryDirectory() as folder:
        return ExpertTeacher(saved(Path(folder) / "expert.safetensors", state), scale)
