"""Checkpoints on disk: written whole or not at all, read in one way."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor

from ctsr_lightning.weights.reading import read_checkpoint

RESUMED: Final = frozenset({"callbacks", "loops", "lr_schedulers", "optimizer_states"})
"""What a training needs of a checkpoint beside the weights; those that hold weights only lack some."""


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to checkpoints, for local files.

    A file is written beside its place, flushed to the disk and renamed; weights that are not finite are not written. It
    is read as plain values and tensors, after its checksums.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its contents.
            path: The file.
            storage_options: Not used.

        Raises:
            ValueError: If weights are not finite.
            OSError: If it cannot be written; names the file, and what was there before stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        check_finite_weights(checkpoint["state_dict"], int(checkpoint["global_step"]), place)
        place.parent.mkdir(parents=True, exist_ok=True)
        # Always of one name, unlike `written_aside`: what a kill leaves is large, and the next writing takes its place.
        aside = place.with_name(f".{place.name.lstrip('.')}.incomplete")
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(place)
        except (OSError, RuntimeError) as error:  # torch wraps what the system reports
            cause = next((e for e in (error, error.__context__, error.__cause__) if isinstance(e, OSError)), None)
            if cause is None:
                raise
            raise OSError(cause.errno, cause.strerror, str(place)) from error
        finally:
            aside.unlink(missing_ok=True)
        flush_folder(place.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = None,  # noqa: ARG002  # Lightning's signature
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: Not used; tensors come on the CPU.
            weights_only: Anything but False, which would run what is in the file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, of another kind, or was to be run.
        """
        if weights_only is False:
            raise ValueError(
                "Expected to read a checkpoint as plain values, without running it. Leave `weights_only` out."
            )
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=True)
        if not Path(path).exists():
            raise FileNotFoundError(f"Checkpoint file not found: {path}")
        checkpoint = read_checkpoint(path)
        wanted = RESUMED if self._trainer.state.fn == "fit" else {"loops"}
        if missing := sorted(wanted - checkpoint.keys()):
            raise ValueError(
                f"Expected a whole checkpoint of a training at '{path}', found one without {', '.join(missing)}. Begin "
                "a new training from its weights by `weights:` of the network, or name another checkpoint."
            )
        return checkpoint


def use_checkpoint_files(trainer: Trainer) -> None:
    """Let a trainer write and read checkpoints so, unless it was given a way of its own.

    Args:
        trainer: The trainer.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFiles(trainer)


def check_finite_weights(state: Mapping[str, Tensor], step: int, place: Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        state: The weights by name.
        step: The training's step, for the message.
        place: The file that they were meant for.

    Raises:
        ValueError: If a value is not finite; names the first such weights.
    """
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    if not floats:
        return
    finite = torch.stack([torch.isfinite(value).all() for value in floats.values()]).tolist()
    bad = [name for name, fine in zip(floats, finite, strict=True) if not fine]
    if bad:
        raise ValueError(
            f"Expected finite weights at step {step}, found NaN or infinity in {len(bad)} of {len(finite)} (first: "
            f"'{bad[0]}'). The training has diverged; nothing is written to '{place}', and an earlier checkpoint there "
            "is as it was. Go on from that one with a lower learning rate, or with gradients clipped."
        )


def flush_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system can: a renamed file then survives a loss of power.

    Args:
        folder: The folder.
    """
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
