"""Precision and random numbers of inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from ctsr_lightning.networks.lora import adapters_of, merged, without_adapters
from ctsr_lightning.networks.sharing import convert_own, over_the_same_weights
from ctsr_lightning.networks.student import OneStepStudent
from ctsr_lightning.networks.tradeoff import TradeOff

HALF: Final = frozenset({torch.float16, torch.bfloat16})
"""Types of networks whose closed forms and blending stay in float32."""


def for_inference(model: TradeOff | OneStepStudent, dtype: torch.dtype) -> TradeOff | OneStepStudent:
    """A model that restores as fast as its bare networks: adapters merged, weights in the type they compute in.

    Only the networks are converted: noise schedules, and all between the networks, stay in float32 or better. In
    bfloat16 encoder and UNet of the one step stay in float32 where that step amplifies rounding
    (`OneStepStudent.amplifies`). A codec whose `halves` are unknown stays in float32.

    Args:
        model: The model, which is left as it is; weights that need no change are shared with it.
        dtype: The type; float64 is for everything.
    """
    student = model.student if isinstance(model, TradeOff) else model
    ready = over_the_same_weights(model, student.prompt)
    student = ready.student if isinstance(ready, TradeOff) else ready
    step_dtype = torch.float32 if dtype == torch.bfloat16 and student.amplifies else dtype
    if adapters_of(student.codec):
        student.base_codec = without_adapters(student.codec)
    student.codec, student.unet = merged(student.codec), merged(student.unet)
    codecs = [student.codec] if student.base_codec is None else [student.codec, student.base_codec]
    networks = [(student.unet, step_dtype)]
    networks += [(part, step_dtype) for codec in codecs for part in codec.halves()[0]]
    networks += [(part, dtype) for codec in codecs for part in codec.halves()[1]]
    if isinstance(ready, TradeOff):
        ready.velocity.unet = merged(ready.velocity.unet)
        networks.append((ready.velocity.unet, dtype))
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
