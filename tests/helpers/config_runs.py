"""Runs of the shipped configurations through the command line, at a size that takes a second each."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from jsonargparse import ArgumentParser
from lightning import Callback
from lightning.pytorch.cli import LightningCLI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ctsr_lightning.training import import_plugins, training_cli
from ctsr_lightning.weights.shipped import shipped_folder

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

QUIET = shlex.split("""
--trainer.accelerator cpu --trainer.devices 1 --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1
--trainer.check_val_every_n_epoch null --trainer.val_check_interval 2 --trainer.enable_progress_bar false
--trainer.enable_model_summary false
""")
"""A trainer that logs every step and validates after every second."""

FEW = shlex.split("""
--data.crop 64 --data.val_crop 64 --data.val_repeats 1 --data.batch_size 2 --data.samples_per_epoch 8
--data.num_workers 0
""")
"""Epochs of four steps on small crops: two steps end, and a resumption begins, in the middle of one."""

CHAIN = ("codec", "prior", "fidelity_teacher", "realness_teacher", "stage1", "stage2")
"""The nano trainings in order."""


class PressCtrlC(Callback):
    """Interrupts the third step."""

    def on_train_batch_start(self, trainer, *args) -> None:
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def written(name: str) -> Any:
    """A configuration file as it is written, with the names of the files in it; its own with or without the suffix."""
    return yaml.safe_load((CONFIGS / name).with_suffix(".yaml").read_text())


def ctsr(verb: str, config: Path | str, *words: str) -> LightningCLI:
    """Run a training verb with a configuration."""
    return training_cli([verb, "--config", str(config), *QUIET, *words])


def train_and_use(config: Path, *words: str) -> None:
    """Train, then test the last checkpoint and restore the held-out photos, all with one trainer."""
    cli = ctsr("fit", config, *words)
    last = Path(cli.trainer.log_dir) / "checkpoints" / "last.ckpt"
    for verb in (cli.trainer.test, cli.trainer.predict):
        verb(cli.model, cli.datamodule, ckpt_path=last)


def build(base: type, config: Path, *words: str) -> Any:
    """Build one part of a training, a teacher or a prompt, from its file and options without `--part`.

    Args:
        base: The part's base class.
        config: The file.
        *words: Options of it; another file takes the place of the first.
    """
    parser = part_parser(base)
    options = [f"--part.{word.removeprefix('--')}" if word.startswith("--") else word for word in words]
    return parser.instantiate(parser.parse_args(["--part", str(config), *options])).part


@cache
def part_parser(base: type) -> ArgumentParser:
    """The command line's way to read `--part` of a base class: that of a whole training takes seconds."""
    import_plugins()
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(base, "part")
    return parser


def nano_words(name: str, steps: int = 2) -> list[str]:
    """A nano training's options; the schedule must be longer than its warm-up."""
    schedule = ["--model.scheduler.total_steps", "9", "--model.scheduler.warmup_steps", "1"]
    return [*FEW, "--data.pool", "4", "--trainer.max_steps", str(steps), *schedule]


class Events:
    """What a run has written for TensorBoard.

    Args:
        folder: The log folder.
    """

    def __init__(self, folder: Path) -> None:
        everything = {"scalars": 0, "images": 0}
        self.read = EventAccumulator(str(folder), size_guidance=everything).Reload()

    def scalars(self, prefix: str) -> dict[str, dict[int, float]]:
        """Values by name and step."""
        names = [name for name in self.read.Tags()["scalars"] if name.startswith(prefix)]
        return {name: {event.step: event.value for event in self.read.Scalars(name)} for name in names}

    def images(self) -> dict[str, tuple[int, int]]:
        """Width and height of the latest picture by name."""
        latest = {name: self.read.Images(name)[-1] for name in self.read.Tags()["images"]}
        return {name: (image.width, image.height) for name, image in latest.items()}


def write_base(folder: Path, **unet: Any) -> Path:
    """Write a Stable Diffusion of toy size, random weights, in diffusers' layout.

    Args:
        folder: The model's folder.
        **unet: Settings of the UNet other than those of 2.x.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 8,
        "use_linear_projection": True,
        **unet,
    }
    UNet2DConditionModel(**settings).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    tokens = ["a</w>", "a", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    named = {"bos_token": tokens[2], "eos_token": tokens[3], "unk_token": tokens[3], "pad_token": tokens[3]}
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 8, **named})
    )
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=8,
        bos_token_id=2,
        eos_token_id=3,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    return folder


def write_dino(folder: Path) -> Path:
    """Write a vision transformer of toy size, random weights, in transformers' layout.

    Args:
        folder: The model's folder.
    """
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
    dino = ViTModel(ViTConfig(**sizes, intermediate_size=16, image_size=32, patch_size=8), add_pooling_layer=False)
    dino.save_pretrained(folder)
    return folder


@contextmanager
def toy_environment(folder: Path) -> Iterator[Path]:
    """Runs in a folder with nano's codec, a Stable Diffusion and a DINO of toy size, and no LPIPS weights.

    Args:
        folder: The folder.
    """
    (folder / "codec").mkdir()
    shutil.copy(shipped_folder() / "codec" / "weights.safetensors", folder / "codec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("CTSR_RUNS", str(folder))
        patch.setenv("CTSR_BASE", str(write_base(folder / "base")))
        patch.setenv("CTSR_BASE_KIND", "any")
        patch.setenv("CTSR_DINO", str(write_dino(folder / "dino")))
        yield folder


FULL = [*FEW, "--data.batch_size", "1", "--data.train", "null", "--data.val", "null", "--trainer.max_steps", "2"]
FULL += ["--trainer.accumulate_grad_batches", "1"]
"""Options of a full-size training without photographs of its own."""
