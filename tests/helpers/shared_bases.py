"""Stage 1 and a velocity field over one shared base or over copies of it; also what each of two processes does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.modules import CTSRStage1
from ctsr_lightning.networks import LoRA, VelocityField, load_autoencoder, load_unet
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny

STEPS = 2


def unet(base: Path, share: bool = True) -> Any:
    """The base's UNet."""
    return load_unet(str(base), expect="any", share=share)


def codec(base: Path, share: bool = True) -> KLCodec:
    """The base's autoencoder."""
    return KLCodec(load_autoencoder(str(base), expect="any", share=share))


def awake(module: nn.Module, seed: int) -> nn.Module:
    """Give what is trained of a module random weights of a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def student(base: Path, share: bool = True, seed: int = 0, **options: Any) -> OneStepStudent:
    """A student with awake adapters."""
    options = {"lora": LoRA(), "encoder_lora": LoRA(), "prompt": tiny.TinyPrompt(), **options}
    torch.manual_seed(seed)
    built = OneStepStudent(unet(base, share), codec(base, share), **options)
    awake(built, seed)
    return built


def velocity(base: Path, share: bool = True, seed: int = 2, **options: Any) -> VelocityField:
    """A velocity field that is awake."""
    torch.manual_seed(seed)
    field = VelocityField(unet(base, share), LoRA(), **options)
    awake(field, seed)
    return field


def stage_one(base: Path, share: bool = True, score: Any = "own", checkpointing: bool = False) -> CTSRStage1:
    """Stage 1 whose teacher is another student over the same base."""
    return CTSRStage1(
        student=student(base, share, seed=0, gradient_checkpointing=checkpointing),
        fidelity=tiny.LinearTeacher(),
        realness=OneStepTeacher(student(base, share, seed=1, gradient_checkpointing=checkpointing), score),
        reconstruction=tiny.reconstruction(),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
    )


def train(rank: int, world_size: int, base: Path, share: bool) -> dict[str, list[float]]:
    """Sums of the weights that two steps have trained, by name."""
    module = stage_one(base, share).double()
    pairs = tiny.ToyPairs(2 * STEPS)
    sampler: DistributedSampler[Any] = DistributedSampler(pairs, world_size, rank, shuffle=False)
    options: dict[str, Any] = {"strategy": "ddp", "devices": 2} if world_size > 1 else {}
    tiny.fit(
        module, DataLoader(pairs, batch_size=2 // world_size, sampler=sampler), max_steps=STEPS,
        use_distributed_sampler=False, precision="64-true", **options,
    )  # fmt: skip
    weights: dict[str, Tensor] = module.trimmed_state()
    return {name: [weight.sum().item(), weight.abs().sum().item()] for name, weight in weights.items()}
