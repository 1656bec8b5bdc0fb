"""What several commands share: values of t on the command line, the model, the progress bar."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ctsr_lightning import __version__

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from ctsr_lightning.inference.restorer import Restorer

Precision = Literal["float32", "bfloat16", "float16"]
TrainingPrecision = Literal["auto", "float32", "bfloat16"]
"""What a chain of trainings computes in: bfloat16 under autocast, with weights in float32, or float32 throughout."""
Color = Literal["none", "adain", "wavelet"]
"""As in `inference.color`, which imports torch."""
Baselines = Literal["all", "bicubic", "none"]


def parse_controls(text: float | Sequence[float] | str) -> list[float]:
    """Read values of t.

    Args:
        text: A number, a list, or numbers with commas between them; repeated values count once.

    Raises:
        ValueError: If there is none, or one is not a number in [0, 1].
    """
    words: Sequence[float | str]
    if isinstance(text, str):
        words = [word for word in text.replace(",", " ").split() if word]
    else:
        words = [text] if isinstance(text, (int, float)) else list(text)
    controls = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0.0 <= value <= 1.0:  # NaN included
            raise ValueError(
                f"Expected values of t from 0 (realness) to 1 (fidelity), such as 0,0.5,1; got '{word}'. "
                "The path between the two experts ends there, and nothing was trained beyond."
            )
        controls.append(value)
    if not controls:
        raise ValueError("Expected at least one value of t, such as 0.5 or 0,0.5,1.")
    return list(dict.fromkeys(controls))


def listed(words: str | Sequence[str] | None) -> list[str]:
    """Read a list of folders.

    Args:
        words: Folders with commas between them, a list of such, or None.
    """
    several = [words] if isinstance(words, str) else words or []
    return [word.strip() for text in several for word in text.split(",") if word.strip()]


class Model(NamedTuple):
    """The model that a command works with."""

    path: Path
    """Its checkpoint."""
    name: str
    """What records call it."""


def choose_model(checkpoint: str | Path | None) -> Model:
    """Find the model of a command; if it is the shipped one, say so on standard error.

    Args:
        checkpoint: The checkpoint; None, or `nano` where no such file is, for the model that comes with the package.

    Raises:
        FileNotFoundError: If the package has come without its model.
    """
    from ctsr_lightning.networks.shipped import SHIPPED, shipped_model

    if checkpoint is not None and (str(checkpoint) != SHIPPED or Path(checkpoint).is_file()):
        return Model(Path(checkpoint), str(checkpoint))
    path = shipped_model()
    name = f"{SHIPPED} (shipped with ctsr_lightning {__version__})"
    print(f"model: {name}, a small one trained on photographs; --checkpoint FILE names another", file=sys.stderr)
    return Model(path, name)


def load_restorer(
    checkpoint: str | Path | None, *, tile: int | None, device: str, precision: Precision, color: Color = "none"
) -> Restorer:
    """Read the model of a command.

    Args:
        checkpoint: The checkpoint, as for `choose_model`.
        tile: Side of a tile in input pixels.
        device: Where to compute.
        precision: Type to compute in.
        color: Correction of colours by the enlarged input.

    Raises:
        FileNotFoundError: If it is not there.
    """
    path = choose_model(checkpoint).path
    import torch

    from ctsr_lightning.inference.restorer import Restorer

    return Restorer.from_checkpoint(path, device, getattr(torch, precision), tile, color=color)


def torch_device(accelerator: str) -> str:
    """The device that Lightning's name of an accelerator means.

    Args:
        accelerator: auto, cpu, gpu, cuda or mps.
    """
    return {"gpu": "auto"}.get(accelerator, accelerator)


def computes_bfloat16(accelerator: str) -> bool:
    """Whether a device multiplies bfloat16 natively; where it is emulated, float32 is as fast or faster.

    Args:
        accelerator: Lightning's name of it: auto, cpu, gpu, cuda or mps.
    """
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in {"auto", "cpu"} or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def describe_device(device: torch.device) -> str:
    """A device for the record of a measurement: the model of a GPU, or the number of threads on a CPU.

    Args:
        device: The device.
    """
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {device}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def progress() -> Progress:
    """Progress on standard error, so that results on standard output can be piped: a bar, or plain lines in a log."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ctsr_lightning.commands.progress import PlainProgress

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        return PlainProgress(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
