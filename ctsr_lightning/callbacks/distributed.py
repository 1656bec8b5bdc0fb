"""Passes of a trainer over images without disturbing the training, and processes that were lost."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ctsr_lightning.batch import Batch

REPORT_SECONDS = 2.0
"""How long processes wait for each other's report after an exchange has failed."""


def checked_batch(batch: Any, dataloader_idx: int = 0) -> tuple[Batch, Tensor]:
    """A batch and its ground truth.

    Args:
        batch: An item of the data loader.
        dataloader_idx: Number of the data loader.

    Raises:
        ValueError: If it is no `Batch`, has no ground truth, or comes from a second data loader.
    """
    if not isinstance(batch, Batch):
        raise ValueError(f"Expected a Batch(lq, gt, key) from the data module, found {type(batch).__name__}.")  # noqa: TRY004
    if dataloader_idx:
        raise ValueError("Expected one data loader per pass, found several. Measure one data set after the other.")
    if batch.gt is None:
        raise ValueError(
            f"Expected ground truth to measure against, but the batch with '{batch.key[0]}' has none. "
            "Validate and test on pairs or on degraded photos; `predict` restores images without ground truth."
        )
    return batch, batch.gt


def check_finite(images: Tensor, keys: Sequence[str], label: str, trainer: Trainer) -> None:
    """Refuse images that hold NaN or infinity.

    Args:
        images: Restored images, shape (B, 3, H, W).
        keys: Their names.
        label: Name of the method that restored them.
        trainer: The trainer, for its step.

    Raises:
        ValueError: If a value is not finite; names the images.
    """
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [key for key, fine in zip(keys, finite.tolist(), strict=True) if not fine]
        raise ValueError(
            f"Expected finite images, but '{label}' at step {trainer.global_step} holds NaN or infinity for {bad}. "
            "The training has diverged or the precision is too low: lower the learning rate, clip gradients, or use "
            "bf16-mixed or 32-true."
        )


@contextmanager
def evaluation_rng(trainer: Trainer, keys: Sequence[str]) -> Iterator[None]:
    """Restore images in the trainer's precision, without gradients, and leave the training's random state untouched.

    Restorers that draw noise get the same noise for the same images each time.

    Args:
        trainer: The trainer.
        keys: Names of the images.
    """
    with isolate_rng(), trainer.precision_plugin.forward_context(), torch.no_grad():
        torch.manual_seed(zlib.crc32("\n".join(keys).encode()))
        yield


def check_strategy(strategy: Any) -> None:
    """Refuse strategies that send a built training to other processes, which Lightning's command line cannot.

    Args:
        strategy: The trainer's strategy, a name or an object.

    Raises:
        ValueError: If it is one of these.
    """
    if isinstance(strategy, str) and any(part in strategy for part in ("spawn", "fork", "notebook")):
        raise ValueError(
            f"Expected processes that start by themselves, found the strategy '{strategy}'. "
            "Take `--trainer.strategy ddp`, or start the processes with torchrun or srun."
        )


def lost_processes(trainer: Trainer, error: RuntimeError) -> str | None:
    """Tell which processes of a training have ended, where an exchange between them has failed.

    Those that are left report to each other; who does not is gone, or hangs.

    Args:
        trainer: The trainer.
        error: What was raised.

    Returns:
        A message; None if the error is another.
    """
    distributed = torch.distributed
    exchange = isinstance(error, distributed.DistError) or any(
        text in str(error) for text in ("gloo", "NCCL", "Connection closed by peer", "ProcessGroup")
    )
    if trainer.world_size == 1 or not exchange or not distributed.is_initialized():
        return None
    try:
        store = distributed.distributed_c10d._get_default_store()
        store.set(f"ctsr/left/{trainer.global_rank}", "1")
        until, others = time.monotonic() + REPORT_SECONDS, set(range(trainer.world_size))
        while others and time.monotonic() < until:
            others -= {rank for rank in others if store.check([f"ctsr/left/{rank}"])}
            time.sleep(0.05)
    except RuntimeError:
        others = {0}  # which keeps what processes report
    gone = ", ".join(map(str, sorted(others)))
    which = f"process {gone} of {trainer.world_size} has ended or hangs" if others else "an exchange has failed"
    return (
        f"Expected {trainer.world_size} processes to work together, but {which} (seen by process "
        f"{trainer.global_rank} at step {trainer.global_step}). What that process itself has said, or the system's "
        "log, tells why. Resume from the last checkpoint."
    )
