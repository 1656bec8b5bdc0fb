"""What several commands share: the model, and lists of words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctsr_lightning import __version__
from ctsr_lightning.inference.settings import Color, Precision

if TYPE_CHECKING:
    from ctsr_lightning.inference.restorer import Restorer


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
    from ctsr_lightning.weights.shipped import SHIPPED, shipped_model

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
