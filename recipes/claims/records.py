"""Records of finished experiments: what was measured, with which settings; several processes may share a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recipes.claims.plan import Experiment

DIGITS: Final = 8
"""Hexadecimal digits of the digest in a file's name."""
DECIMALS: Final = 6


@dataclass(frozen=True)
class Record:
    """What an experiment found.

    Args:
        experiment: What was trained and measured.
        images: Names of the test images.
        values: Per method (`t=0.20`, `T_f`, ...) and metric, a value per image in the order of `images`.
        seconds: Time of the `training` and the `evaluation`.
        made: Where and with what it was made: device, versions, steps.
    """

    experiment: str
    images: list[str]
    values: Mapping[str, Mapping[str, list[float]]]
    seconds: Mapping[str, float]
    made: Mapping[str, Any]

    def mean(self, method: str, metric: str) -> float:
        """Mean of a metric over the images.

        Args:
            method: The method.
            metric: The metric.
        """
        values = self.values[method][metric]
        return sum(values) / len(values)

    def means(self, method: str) -> dict[str, float]:
        """All metrics of a method.

        Args:
            method: The method.
        """
        return {metric: self.mean(method, metric) for metric in self.values[method]}


def digest(settings: Mapping[str, Any]) -> str:
    """A short name of settings: the same for the same, in whatever order.

    Args:
        settings: Plain values.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:DIGITS]


class Records:
    """A folder of records. A record is found again only by an experiment with the very settings it was made with.

    Args:
        folder: The folder, made as needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, experiment: Experiment, settings: Mapping[str, Any]) -> Path:
        """The file of an experiment's record.

        Args:
            experiment: The experiment.
            settings: All that its result depends on.
        """
        return self.folder / f"{experiment.stem}-{digest(settings)}.json"

    def find(self, experiment: Experiment, settings: Mapping[str, Any]) -> Record | None:
        """The record of an experiment, or None if it has not been made with these settings.

        Args:
            experiment: The experiment.
            settings: All that its result depends on.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path(experiment, settings)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["settings"] != json.loads(json.dumps(settings)):
                return None
            named = {name: content[name] for name in ("experiment", "images", "values", "seconds", "made")}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"'{path}' is not a record of python -m recipes claims ({error!r}). Delete it to do it again."
            ) from error
        return Record(**named)

    def write(self, experiment: Experiment, settings: Mapping[str, Any], record: Record) -> None:
        """Write a record in one step: it is never half written.

        Args:
            experiment: The experiment.
            settings: All that its result depends on.
            record: The record.
        """
        values = {
            method: {metric: [round(value, DECIMALS) for value in column] for metric, column in metrics.items()}
            for method, metrics in record.values.items()
        }
        content = {**vars(record), "values": values, "settings": dict(settings)}
        text = json.dumps(content, indent=1, allow_nan=False)
        replace(self.path(experiment, settings), text)

    def others(self, experiment: Experiment, settings: Mapping[str, Any]) -> list[str]:
        """The settings in which the record of the same experiment that is most like it differs; empty without any.

        Args:
            experiment: The experiment.
            settings: Its settings now.
        """
        now = json.loads(json.dumps(settings))
        found: list[list[str]] = []
        for path in sorted(self.folder.glob(f"{experiment.stem}-{'?' * DIGITS}.json")):
            try:
                before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
            found.append(sorted(name for name in {*now, *before} if now.get(name) != before.get(name)))
        return min(filter(None, found), key=len, default=[])

    @contextmanager
    def held(self, experiment: Experiment, settings: Mapping[str, Any]) -> Iterator[bool]:
        """Within this context no other process on this machine does the same experiment; false if one does already.

        The system lets go of the lock when a process ends, however it ends. Systems without such locks (Windows) always
        answer true: two processes then may do the same work twice, and leave one record all the same.

        Args:
            experiment: The experiment.
            settings: All that its result depends on.
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


def replace(path: Path, text: str) -> None:
    """Write a text file in one step.

    Args:
        path: The file.
        text: Its content.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def transposed(
    rows: Sequence[tuple[str, str, Mapping[str, float]]],
) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    """Measurements image by image as columns by method and metric.

    Args:
        rows: Image, method and values.

    Returns:
        Names of the images in order, and per method and metric a value for each.

    Raises:
        ValueError: If a method lacks an image.
    """
    images = list(dict.fromkeys(image for image, _, _ in rows))
    columns: dict[str, dict[str, list[float]]] = {}
    for image, method, values in rows:
        for metric, value in values.items():
            column = columns.setdefault(method, {}).setdefault(metric, [])
            if len(column) >= len(images) or images[len(column)] != image:
                raise ValueError(f"Expected every method to restore the same images in one order, not so: {method}.")
            column.append(value)
    if any(len(column) != len(images) for metrics in columns.values() for column in metrics.values()):
        raise ValueError("Expected every method to restore every image, but some lack images.")
    return images, columns


def listing(photos: list[Path], folder: Path | None) -> str:
    """What stands for a set of photographs in settings: their number, names and sizes, wherever the folder is.

    Args:
        photos: The photographs.
        folder: Their folder; None for the sample photographs.
    """
    if folder is None:
        return "sample photographs"
    return f"{len(photos)} files {digest({p.relative_to(folder).as_posix(): p.stat().st_size for p in photos})}"
