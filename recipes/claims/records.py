"""Records of finished experiments: measurements and the settings behind them; several processes may share a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from recipes.chain import write_atomically
from recipes.claims.experiments import Experiment

DIGITS: Final = 8
"""Hexadecimal digits of the digest in a file's name."""
COLUMNS: Final = ("image", "method", "metric", "value")
"""Columns of an experiment's measurements, a row per image, method (`t=0.20`, `T_f`, ...) and metric."""


@dataclass(frozen=True, eq=False)
class Record:
    """Result of an experiment.

    Args:
        measurements: Columns as in `COLUMNS`.
        seconds: Time of the `training` and the `evaluation`.
        made: Device, versions and steps that it was made with.
    """

    measurements: pd.DataFrame
    seconds: Mapping[str, float]
    made: Mapping[str, Any]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """A short hash of plain values, the same in whatever order they come."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:DIGITS]


class Records:
    """A folder of JSON files, one per experiment and settings. Other settings never find a record.

    Args:
        folder: The folder, made as needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, experiment: Experiment, settings: Mapping[str, Any]) -> Path:
        """The file of an experiment's record."""
        return self.folder / f"{experiment.stem}-{settings_digest(settings)}.json"

    def read(self, experiment: Experiment, settings: Mapping[str, Any]) -> Record | None:
        """The record of an experiment; None if there is none with these settings.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path(experiment, settings)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["settings"] != _plain(settings):
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
        text = json.dumps(content, allow_nan=False)
        write_atomically(self.path(experiment, settings), text.encode())

    def differing_settings(self, experiment: Experiment, settings: Mapping[str, Any]) -> list[str]:
        """The settings in which the most similar record of the same experiment differs; empty without one."""
        now = _plain(settings)
        found: list[list[str]] = []
        for path in sorted(self.folder.glob(f"{experiment.stem}-{'?' * DIGITS}.json")):
            try:
                before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            except (KeyError, TypeError, ValueError):
                continue
            found.append(sorted(name for name in {*now, *before} if now.get(name) != before.get(name)))
        return min(filter(None, found), key=len, default=[])

    @contextmanager
    def lock(self, experiment: Experiment, settings: Mapping[str, Any]) -> Iterator[bool]:
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
        with (locks / self.path(experiment, settings).stem).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def _plain(settings: Mapping[str, Any]) -> Any:
    """Settings as JSON gives them back: lists in place of tuples."""
    return json.loads(json.dumps(settings))


def describe_photographs(photos: list[Path], folder: Path | None) -> str:
    """Photographs in settings: their number, names and sizes, wherever their folder is.

    Args:
        photos: The photographs.
        folder: Their folder; None for the sample photographs.
    """
    if folder is None:
        return "sample photographs"
    return (
        f"{len(photos)} files {settings_digest({p.relative_to(folder).as_posix(): p.stat().st_size for p in photos})}"
    )
