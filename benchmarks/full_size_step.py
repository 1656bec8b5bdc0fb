"""Time and memory of a training step at full size, on networks with generated weights.

The networks have the sizes of Stable Diffusion 2.1-base, OSEDiff's adapters, ResShift and LPIPS-VGG, and are put
together as `configs/ctsr` does, so no weights are needed: time and memory do not depend on their values. Steps are
Lightning's, on one random crop of 512 pixels; loading data comes on top. Memory is the peak of the device's tensors, on
a CPU of the whole process, and then the largest of all trainings so far. Lines appear as they are measured.

    python benchmarks/full_size_step.py --steps 10
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models import vgg16

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs import KLCodec, VQCodec
from ctsr_lightning.codecs.vq import vq_autoencoder
from ctsr_lightning.inference.devices import describe_device, peak_memory, pick_device, reset_peak_memory, synchronize
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.metrics.perceptual import LPIPS
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.modules import CTSRStage1, CTSRStage2
from ctsr_lightning.networks import LoRA, VelocityField
from ctsr_lightning.networks.published_resshift import PublishedResShift, published_schedule
from ctsr_lightning.networks.sharing import share
from ctsr_lightning.networks.swin_unet import SwinUNet
from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.tables import markdown_row, markdown_table
from ctsr_lightning.teachers import BridgedTeacher, OneStepTeacher

ROWS: dict[str, dict[str, Any]] = {
    "stage 1 (as shipped)": {},
    "stage 1, `gradient: score`": {"gradient": "score"},
    "stage 1, 16-mixed": {"precision": "16-mixed"},
    "stage 1, 32-true": {"precision": "32-true"},
    "stage 1, no gradient checkpointing": {"checkpointing": False},
    "stage 1, `gradient: score`, no checkpointing": {"gradient": "score", "checkpointing": False},
    "stage 2 (as shipped)": {"stage": 2},
    "stage 2, ResShift v3": {"stage": 2, "version": "v3"},
}
"""Trainings, each as it differs from stage 1 as shipped."""
UNET = {
    False: {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20)},
    True: {"block_out_channels": (32, 64, 64, 64), "attention_head_dim": 8},
}
"""Sizes of the UNet, at full size and narrow."""
WIDTH = 1024
"""Width of the prompt's embedding."""


class Words(Prompt):
    """An embedding of zeros with the length of Stable Diffusion's."""

    varies = False

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002
        """Zeros, shape (B, 77, 1024)."""
        return lq.new_zeros(lq.shape[0], 77, WIDTH)


class Clock(Callback):
    """Times batches after the first few, and has the peak memory counted from there."""

    def __init__(self, device: torch.device, warmup: int) -> None:
        self.device, self.warmup, self.began = device, warmup, 0.0
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin."""
        del trainer, pl_module, batch
        if batch_idx == self.warmup:
            reset_peak_memory(self.device)
        synchronize(self.device)
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End."""
        del trainer, pl_module, outputs, batch
        synchronize(self.device)
        if batch_idx >= self.warmup:
            self.seconds.append(time.perf_counter() - self.began)


def training(
    narrow: bool, stage: int = 1, gradient: Any = "paper", checkpointing: bool = True, version: Any = "v1"
) -> LightningModule:
    """A training as `configs/ctsr` builds it, over generated weights."""

    def unet() -> UNet2DConditionModel:
        sizes: dict[str, Any] = UNET[narrow]
        return share(
            "unet",
            lambda: UNet2DConditionModel(
                sample_size=64, use_linear_projection=True, cross_attention_dim=WIDTH, **sizes
            ),
        )

    def codec() -> KLCodec:
        autoencoder = share(
            "autoencoder",
            lambda: AutoencoderKL(
                block_out_channels=(32, 32, 32, 32) if narrow else (128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.18215,
            ),
        )
        return KLCodec(autoencoder)

    def student() -> OneStepStudent:
        return OneStepStudent(unet(), codec(), 4, LoRA(4, 8), LoRA(4, 8), Words(), gradient_checkpointing=checkpointing)

    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.999), weight_decay=0.01)

    swin = SwinUNet(model_channels=32) if narrow else SwinUNet()
    vq = VQCodec(vq_autoencoder(channels=32) if narrow else vq_autoencoder())
    clip = None if version == "v1" else 5.0
    fidelity = BridgedTeacher(
        PublishedResShift(swin, vq, published_schedule(version)), codec(), clip, gradient_checkpointing=checkpointing
    )
    if stage == 2:
        velocity = VelocityField(unet(), LoRA(4, 8), gradient_checkpointing=checkpointing)
        return CTSRStage2(student(), velocity, fidelity, velocity_start="student", optimizer=optimizer)
    loss = Reconstruction(1.0, lambda_lpips=2.0, perceptual=LPIPS("vgg"))
    return CTSRStage1(student(), fidelity, OneStepTeacher(student()), loss, gradient=gradient, optimizer=optimizer)


def measure(name: str, steps: int, warmup: int, device: torch.device, narrow: bool = False) -> dict[str, Any]:
    """Train for a few steps; the median time and the peak memory of a step."""
    settings = dict(ROWS[name])
    precision = settings.pop("precision", "bf16-mixed")
    clock, side = Clock(device, warmup), 256 if narrow else 512
    gt = torch.rand(1, 3, side, side)
    batch = Batch(gt[..., ::4, ::4].contiguous(), gt, ["crop"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1,
            precision=precision,
            max_steps=warmup + steps,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
            default_root_dir=folder,
        )
        with device:  # weights are drawn where they are used
            module = training(narrow, **settings)
        trainer.fit(module, DataLoader([batch] * (warmup + steps), batch_size=None))  # type: ignore[arg-type]
    return {
        "training": name,
        "precision": precision,
        "seconds": statistics.median(clock.seconds),
        "memory": peak_memory(device),
        "steps": len(clock.seconds),
        "device": describe_device(device),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure all trainings, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each training")
    parser.add_argument("--warmup", type=int, default=3, help="steps before")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--only", default="", help="trainings whose names contain this")
    parser.add_argument("--tf32", action="store_true", help="matrix products of float32 in TF32")
    parser.add_argument("--narrow", action="store_true", help="narrow networks, to try this script")
    parser.add_argument("--output", type=Path, default=None, help="a JSON file for the figures")
    options = parser.parse_args()
    if options.tf32:
        torch.set_float32_matmul_precision("high")
    device, found = pick_device(options.device), []
    with tempfile.TemporaryDirectory() as home:
        os.environ["TORCH_HOME"] = home
        checkpoints = Path(home) / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        torch.save(vgg16(weights=None).state_dict(), checkpoints / "vgg16-397923af.pth")
        print(markdown_table(("training", "precision", "s / step", "memory"), []), flush=True)
        for name in ROWS:
            if options.only not in name:
                continue
            found.append(measure(name, options.steps, options.warmup, device, options.narrow))
            memory, seconds = found[-1]["memory"], f"{found[-1]['seconds']:.3f}"
            cells = (name, found[-1]["precision"], seconds, "" if memory is None else f"{memory / 1e9:.1f} GB")
            print(markdown_row(cells), flush=True)
            gc.collect()  # before the next networks are built
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
