"""Precision and random numbers of inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import torch

from ctsr_lightning.models.restoration_model import RestorationModel
from ctsr_lightning.networks.sharing import convert_own, over_the_same_weights
from ctsr_lightning.prompts.base import Prompt

Model = TypeVar("Model", bound=RestorationModel)

HALF: Final = frozenset({torch.float16, torch.bfloat16})
"""Types of networks whose closed forms and blending stay in float32."""


def for_inference(model: Model, dtype: torch.dtype) -> Model:
    """A model that restores as fast as its bare networks: adapters merged, weights in the type they compute in.

    Only the networks that the model names are converted (`RestorationModel.prepare`): noise schedules, and all between
    the networks, stay in float32 or better. A codec whose `halves` are unknown stays in float32.

    Args:
        model: The model, which is left as it is; weights that need no change, and prompts, are shared with it.
        dtype: The type; float64 is for everything.
    """
    ready = over_the_same_weights(model, *(part for part in model.modules() if isinstance(part, Prompt)))
    networks = ready.prepare(dtype)
    convert_own(ready, torch.promote_types(dtype, torch.float32))
    for network, own in networks:
        convert_own(network, own)
    return ready


@contextmanager
def inference_precision(device: torch.device, dtype: torch.dtype, seed: int | None) -> Iterator[None]:
    """Within this context networks in float32 compute in a type, half types under autocast, and draw from a seed alone.

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
