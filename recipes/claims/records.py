"""Records of finished experiments; several processes may share a folder of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ctsr_lightning.files import written_aside
from recipes.claims.experiments import Experiment

COLUMNS: Final = ("image", "method", "metric", "value")
"""Columns of an experiment's measurements, a row per image, method (`t=0.20`, `T_f`, ...) and metric."""


@dataclass(frozen=True, eq=False)
class Record:
    """Result of an experiment."""

    measurements: pd.DataFrame
    """Columns as in `COLUMNS`."""
    seconds: Mapping[str, float]
    """Time of the `training` and the `evaluation`."""
    made: Mapping[str, Any]
    """Device, versions and steps that it was made with."""


class Records:
    """A folder of JSON files, one per experiment, all made with the same settings.

    Args:
        folder: The folder, made as needed.
        settings: Settings that all experiments share, as plain values.

    Raises:
        ValueError: If the folder's records were made with others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "settings.json"
        if file.is_file() and (names := differing_settings(json.loads(file.read_text(encoding="utf-8")), settings)):
            raise ValueError(
                f"Expected the settings that the records in '{folder}' were made with, found others: "
                f"{', '.join(names)}. Name another --work, or delete that folder."
            )
        with written_aside(file) as aside:
            aside.write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def path(self, experiment: Experiment) -> Path:
        """The file of an experiment's record."""
        return self.folder / f"{experiment.stem}.json"

    def read(self, experiment: Experiment, settings: Mapping[str, Any]) -> Record | None:
        """The record of an experiment; None if there is none with these settings of its own.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path(experiment)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if differing_settings(content["settings"], settings):
                return None
            rows = pd.DataFrame(content["measurements"], columns=list(COLUMNS))
            return Record(rows, content["seconds"], content["made"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{path}' is not a record of python -m recipes claims ({error!r}). Delete it to do it again."
            ) from error

    def write(self, experiment: Experiment, settings: Mapping[str, Any], record: Record) -> None:
        """Write a record in one step: it is never half written."""
        content = {
            "settings": dict(settings),
            "seconds": dict(record.seconds),
            "made": dict(record.made),
            "measurements": record.measurements.round(6)[list(COLUMNS)].to_numpy().tolist(),
        }
        with written_aside(self.path(experiment)) as aside:
            aside.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")

    @contextmanager
    def lock(self, experiment: Experiment) -> Iterator[bool]:
        """Lock an experiment against other processes on this machine; false if another one holds the lock.

        The system releases the lock when a process ends, however it ends. Systems without such locks (Windows) always
        give true: two processes may then do the same work, and leave one record all the same.
        """
        try:
            import fcntl
        except ImportError:
            yield True
            return
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / experiment.stem).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def differing_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ from those read from a JSON file."""
    now = json.loads(json.dumps(now))  # lists in place of tuples
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
