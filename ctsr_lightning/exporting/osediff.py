"""A one-step student in OSEDiff's dialect, `osediff.pkl`, as its published programs read it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.models import OneStepStudent, RestorationModel, TradeOff
from ctsr_lightning.models.student import load_student_weights
from ctsr_lightning.networks.lora import adapters_of
from ctsr_lightning.weights.one_step_files import ALPHA, MERGED_OSEDIFF, OSEDIFF


def write_osediff(source: Path, file: Path) -> float:
    """Write a model's student as `osediff.pkl`, and read it again.

    A student with adapters becomes adapters, as OSEDiff's training writes them; one without becomes all weights of UNet
    and autoencoder, as in AdcSR's copy. Of a stage-2 model it is S_1, hence t = 0 alone.

    Args:
        source: The checkpoint or weight file of the model.
        file: The file to write.

    Returns:
        Largest difference between the weights and those that were read again.

    Raises:
        ValueError: If the dialect cannot hold the model; the message has the reasons.
    """
    model = load_model(source)
    student = one_step_student(model)
    torch.save(contents(student), file)
    again = copy.deepcopy(student)
    known = OSEDIFF if adapters_of(student.unet) else MERGED_OSEDIFF
    networks = (again.unet, again.codec.adapted())
    with torch.no_grad():
        for part, network in zip((known.unet, known.autoencoder), networks, strict=True):
            for name, parameter in network.named_parameters():
                if "lora_" in name or name.startswith(part.replaced):
                    parameter.fill_(float("nan"))  # what is not read again will show
    load_student_weights(again, file)
    pairs = zip(student.parameters(), again.parameters(), strict=True)
    return max(float((a - b).detach().abs().max().nan_to_num(nan=float("inf"))) for a, b in pairs)


def one_step_student(model: RestorationModel) -> OneStepStudent:
    """The student of a model, if OSEDiff's dialect can hold it.

    Args:
        model: The model.

    Raises:
        ValueError: If it cannot; the message has the reasons.
    """
    student = model.student if isinstance(model, TradeOff) else model
    if not isinstance(student, OneStepStudent):
        raise ValueError(_refusal([f"it is a {type(student).__name__}, no OneStepStudent"]))  # noqa: TRY004
    problems = [
        f"{name} is {getattr(student, name)}, OSEDiff's is {value}"
        for name, value in OSEDIFF.step.items()
        if getattr(student, name) != value
    ]
    if not isinstance(student.codec, KLCodec):
        problems.append(f"its codec is a {type(student.codec).__name__}, OSEDiff's is Stable Diffusion's (KLCodec)")
    elif student.codec.tuned:
        problems.append("its decoder was trained, and OSEDiff's file holds no decoder")
    unet, encoder = adapters_of(student.unet), adapters_of(student.codec)
    if (unet and unet.keys() - OSEDIFF.unet.sets.keys()) or bool(unet) != bool(encoder):
        problems.append(
            f"its adapters are {', '.join(unet) or 'none'} on the UNet and {', '.join(encoder) or 'none'} on the "
            f"encoder, OSEDiff's are {', '.join(OSEDIFF.unet.sets)} and default_encoder"
        )
    elif others := {a.alpha for a in (*unet.values(), *encoder.values())} - {ALPHA}:
        problems.append(f"alpha of its adapters is {others.pop():g}, the file does not state it and means {ALPHA:g}")
    if problems:
        raise ValueError(_refusal(problems))
    return student


def contents(student: OneStepStudent) -> dict[str, Any]:
    """Contents of `osediff.pkl`.

    Args:
        student: The student, as `one_step_student` gives it.
    """
    networks: tuple[nn.Module, nn.Module] = (student.unet, student.codec.adapted())
    if not adapters_of(student.unet):
        return {name: _state(network) for name, network in zip(MERGED_OSEDIFF.states, networks, strict=True)}
    found: dict[str, Any] = {}
    for part, network in zip((OSEDIFF.unet, OSEDIFF.autoencoder), networks, strict=True):
        carried = adapters_of(network)
        for adapter, (modules, rank) in part.sets.items():
            found[modules] = list(carried[adapter].modules) if adapter in carried else []
            found[rank] = next(one.rank for one in carried.values())
    unet, autoencoder = (_state(network) for network in networks)
    found["state_dict_unet"] = {k: v for k, v in unet.items() if "lora" in k or "conv_in" in k}
    found["state_dict_vae"] = {k: v for k, v in autoencoder.items() if "lora" in k}
    return found


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}


def _refusal(problems: list[str]) -> str:
    return (
        f"Expected a model that OSEDiff's dialect can hold, found another: {'; '.join(problems)}. Use --format folder "
        "or safetensors."
    )
