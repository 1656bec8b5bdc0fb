"""The folder of a run: one training, whose configuration, checkpoints and weights belong together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from ctsr_lightning.callbacks.image_grid import keeps_files, log_folder
from ctsr_lightning.callbacks.last_checkpoint import LastCheckpoint
from ctsr_lightning.callbacks.resumed_settings import put_in_force
from ctsr_lightning.callbacks.writer import WEIGHTS_FILE
from ctsr_lightning.files import written_aside

CONFIG_FILE = "config.yaml"
_SHOWN = 3
_RESUMING = frozenset({"ckpt_path", "weights_only", "config"})
"""Settings of how a run is started, not of what it is."""


class RunConfiguration(SaveConfigCallback):
    """Writes `config.yaml` to the run's folder once a training begins or goes on: until then it may be refused."""

    _checkpoint: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration of what is no training."""
        if trainer.state.fn != "fit":
            super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint that a training is resumed from, until its optimizers are there."""
        del trainer, pl_module
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the configured settings of optimizer and schedule in force, before Lightning takes the checkpoint's.

        Raises:
            ValueError: If they are of another kind than the checkpoint's.
        """
        del pl_module
        if self._checkpoint is not None:
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            if notes := put_in_force(self._checkpoint, trainer.optimizers, schedules):
                rank_zero_info(f"The configuration replaces settings of the checkpoint: {'; '.join(notes)}.")
        self._checkpoint = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration of a training."""
        del pl_module
        folder = log_folder(trainer)
        if trainer.is_global_zero:
            with written_aside(folder / self.config_filename) as aside:
                self.parser.save(self.config, aside, skip_none=False, overwrite=True, multifile=False)

    def settings(self) -> dict[str, Any]:
        """What is written, as plain values."""
        settings: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return settings


def holds_run(folder: Path) -> bool:
    """Whether a training has left checkpoints or weights in a folder.

    Args:
        folder: The folder.
    """
    return (folder / WEIGHTS_FILE).is_file() or any((folder / "checkpoints").glob("*.ckpt"))


def differing_settings(folder: Path, settings: Mapping[str, Any]) -> list[str] | None:
    """Settings of the run in a folder that are not those of another, as text; None if it is not known.

    Args:
        folder: The folder.
        settings: The other's.
    """
    try:
        known = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(known, dict):
        return None
    there, here = dict(_flat(known)), dict(_flat(dict(settings)))
    names = [name for name in {**there, **here} if name.split(".")[0] not in _RESUMING]
    return [
        f"{name} ({there.get(name, 'unset')} there, {here.get(name, 'unset')} here)"
        for name in names
        if there.get(name, "unset") != here.get(name, "unset")
    ]


def check_run_folder(folder: Path, settings: Mapping[str, Any] | None, checkpoint: str | None) -> None:
    """Refuse to train into a folder that holds another run.

    Args:
        folder: The folder.
        settings: This run's configuration, where it is known.
        checkpoint: The checkpoint that it goes on from, if any.

    Raises:
        ValueError: If the folder holds a run that this one does not go on from; names what differs.
    """
    if not holds_run(folder) or (checkpoint is not None and _within(folder, Path(checkpoint))):
        return
    different = None if settings is None else differing_settings(folder, settings)
    if different is not None:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        difference = f", which differs in {', '.join(different[:_SHOWN])}{more}" if different else ""
    else:
        difference = ""
    raise ValueError(
        f"Expected a folder without another run, found one in '{folder}'{difference}. To go on with that run, whose "
        "checkpoint and weights are then replaced: --ckpt_path last. For a run beside it: "
        "--trainer.logger.init_args.name NAME. To begin anew: remove the folder."
    )


def resume_last(arguments: dict[str, Any], trainer: Trainer, *, fits: bool) -> dict[str, Any]:
    """Take `--ckpt_path last` as the run's own last.ckpt, if it is there: Lightning knows its own callback's alone.

    A training whose configuration is that of the run in its folder goes on with it, also without being told.

    Args:
        arguments: What the trainer is called with, changed in place.
        trainer: The trainer.
        fits: Whether a training is to go on, which may as well begin.

    Raises:
        FileNotFoundError: If it is not there, and no training is to begin.
        ValueError: If the training's folder holds another run.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    last = next((c for c in callbacks if isinstance(c, LastCheckpoint)), None)
    place = None if last is None else last.found(trainer)
    path, folder = arguments.get("ckpt_path"), log_folder(trainer)
    settings = next((c.settings() for c in callbacks if isinstance(c, RunConfiguration)), None) if fits else None
    same = settings is not None and path is None and differing_settings(folder, settings) == []
    if last is not None and (path == "last" or (same and place is not None)):
        if not fits and place is None:
            expected = f"Expected this run's last checkpoint at '{last.place(trainer)}', found nothing."
            raise FileNotFoundError(f"{expected} Train first.")
        arguments["ckpt_path"] = None if place is None else str(place)
        if trainer.is_global_zero:
            nothing = f"nothing to resume at '{last.place(trainer)}', starting anew"
            sys.stderr.write(f"ctsr: {nothing if place is None else f'resuming {str(place)!r}'}\n")
    if fits and keeps_files(trainer):
        check_run_folder(folder, settings, arguments.get("ckpt_path"))
    return arguments


def goes_on_by_itself(trainer: Trainer, config: Any) -> bool:
    """Whether the same training command goes on: told so, or as its folder, always the same, holds its checkpoint.

    Args:
        trainer: The trainer.
        config: Its configuration.
    """
    path, last = config.get("ckpt_path"), any(isinstance(c, LastCheckpoint) for c in trainer.checkpoint_callbacks)
    fixed = last and config.get("trainer.logger.init_args.version") is not None
    return path == "last" or (fixed and not path)


def _within(folder: Path, file: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Plain values by their dotted names."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        for number, value in enumerate(settings):
            yield from _flat(value, f"{name}.{number}")
    else:
        yield name, settings
