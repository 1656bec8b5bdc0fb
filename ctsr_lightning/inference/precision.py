"""Precision and random numbers of inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

HALF: Final = frozenset({torch.float16, torch.bfloat16})
"""Types that networks compute in under autocast; weights, closed forms and blending stay in float32."""


@contextmanager
def inference_precision(device: torch.device, dtype: torch.dtype, seed: int | None) -> Iterator[None]:
    """Within this context networks compute in a type, half types under autocast, and draw from a seed alone.

    Args:
        device: Where they compute.
        dtype: The type.
        seed: The seed; None leaves the global random state alone, for networks that draw nothing.
    """
    half = dtype in HALF
    with (
        torch.autocast(device.type, dtype if half else None, enabled=half),
        torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None),
    ):
        if seed is not None:
            torch.manual_seed(seed)
        yield
