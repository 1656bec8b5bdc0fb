"""Networks of other packages, built without side effects."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final

import torch

_OUTDATED: Final = "The parameter 'pretrained' is|Arguments other than a weight enum|pkg_resources is deprecated"
"""Warnings about torchvision's and setuptools' older interfaces, which lpips and pyiqa still call."""


@contextmanager
def patched_constructor(owner: Any = None, name: str = "", substitute: Any = None) -> Iterator[None]:
    """Within this context another package may build a network, without side effects.

    Its random initialisation, which is overwritten afterwards, leaves our generator as it was, and what it prints
    goes to stderr. Where its constructor would download, `substitute` takes the place of the function that does.

    Args:
        owner: The module whose attribute is replaced for the time being; null to replace nothing.
        name: The attribute.
        substitute: Its temporary value.
    """
    original = getattr(owner, name) if owner is not None else None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), redirect_stdout(sys.stderr):
        warnings.filterwarnings("ignore", _OUTDATED, UserWarning)
        try:
            if owner is not None:
                setattr(owner, name, substitute)
            yield
        finally:
            if owner is not None:
                setattr(owner, name, original)
