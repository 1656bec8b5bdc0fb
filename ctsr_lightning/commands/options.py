"""What several commands share: values of t on the command line, the model, the progress bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from ctsr_lightning.inference.restorer import Restorer

Precision = Literal["float32", "bfloat16", "float16"]
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


def load_restorer(
    checkpoint: str | Path | None, *, tile: int | None, device: str, precision: Precision, color: Color = "none"
) -> Restorer:
    """Read the model of a command.

    Args:
        checkpoint: The checkpoint.
        tile: Side of a tile in input pixels.
        device: Where to compute.
        precision: Type to compute in.
        color: Correction of colours by the enlarged input.

    Raises:
        ValueError: If no checkpoint is named.
    """
    if checkpoint is None:
        raise ValueError(
            "Expected a model: --checkpoint FILE, a checkpoint of stage 2, stage 1 or the one-step teacher. "
            "`make demo` trains a small one in minutes."
        )
    import torch

    from ctsr_lightning.inference.restorer import Restorer

    return Restorer.from_checkpoint(checkpoint, device, getattr(torch, precision), tile, color=color)


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
    """A progress bar on standard error, so that results on standard output can be piped."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
