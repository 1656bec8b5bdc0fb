"""Trained weights that come with this package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHIPPED: Final = "nano"
"""Name of the shipped model, and of its folder below `assets`."""


def shipped_folder() -> Path:
    """Folder of the shipped weights: a trimmed copy of a finished chain of trainings, and its model card."""
    return Path(__file__).resolve().parents[1] / "assets" / SHIPPED


def shipped_model() -> Path:
    """Weights of the shipped model: stage 2, whose `config.yaml` lies beside it and names the other files.

    Raises:
        FileNotFoundError: If this copy of the package has none.
    """
    weights = shipped_folder() / "stage2" / "weights.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"Expected the weights of the model '{SHIPPED}', which come with ctsr_lightning, at '{weights}', found "
            "nothing: this copy of the package is incomplete. Install it again, name another model by --checkpoint "
            "FILE, or train one with `python -m recipes nano`."
        )
    return weights
