"""What was measured of each image, kept on disk: an interrupted measurement goes on, and processes share one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctsr_lightning.evaluation.measurements import ImagePart, Measurements, Row
from ctsr_lightning.evaluation.methods import Method
from ctsr_lightning.evaluation.protocol import protocol, versions
from ctsr_lightning.files import written_aside
from ctsr_lightning.share import ALONE, Share

UNFINISHED: Final = "unfinished"
"""Folder of the records within that of the results; it goes when the report is written."""
SETTINGS: Final = "settings.json"
"""What the records depend on."""
RELEVANT: Final = frozenset({"ctsr-lightning", "torch", "torchvision", "diffusers", "pyiqa"})
"""Packages of which every process has to have the same version."""


class Records:
    """A file for each image of a measurement, written whole as soon as the image is measured.

    Any number of processes may write into one folder, each its share of the images; the order in which images were
    measured, and by which process, does not show in the report. A record holds rows, feature vectors of Fréchet
    distances, deviations over runs and images to show, so that nothing is computed again.

    Args:
        output: Folder of the results; the records are in `UNFINISHED` there.
        settings: What the records depend on, by name.
        total: Number of images.
        share: The part of this process.

    Raises:
        ValueError: If the folder holds records of other settings; the message names them.
    """

    def __init__(self, output: Path, settings: Mapping[str, str], total: int, share: Share = ALONE) -> None:
        self.folder, self.settings, self.total, self.share = output / UNFINISHED, dict(settings), total, share
        if (self.folder / SETTINGS).is_file():
            self._check()

    def missing(self) -> list[int]:
        """Numbers of the images without a whole record."""
        return [index for index in range(self.total) if not _is_whole(self._file(index))]

    def to_measure(self) -> list[int]:
        """Numbers of this process's images without a record."""
        return [index for index in self.missing() if index % self.share.ranks == self.share.rank]

    def write(self, index: int, part: ImagePart, example: Mapping[str, Tensor] | None = None) -> None:
        """Keep what was measured of an image.

        Args:
            index: Its number.
            part: What was measured.
            example: The image as every method restored it, in [0, 1]; kept in 8 bits.

        Raises:
            OSError: If it cannot be written.
            ValueError: If another process has begun a measurement of other settings in the folder.
        """
        if not (self.folder / SETTINGS).is_file():
            with written_aside(self.folder / SETTINGS) as aside:
                aside.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
            self._check()
        example = example or {}
        tensors = {f"restored{i}": restored for i, (restored, _) in enumerate(part.features.values())}
        tensors |= {f"gt_{name}": gt for (_, name), (_, gt) in part.features.items()}
        tensors |= {f"example{i}": image.mul(255.0).round().byte() for i, image in enumerate(example.values())}
        content = {
            "rows": [[r.key, r.method, r.seed, dict(r.values), r.seconds, r.further] for r in part.rows],
            "truth": dict(part.truth),
            "features": list(part.features),
            "deviations": dict(part.deviations),
            "example": list(example),
        }
        with written_aside(self._file(index)) as aside:
            save_file({k: v.contiguous() for k, v in tensors.items()}, aside, {"content": json.dumps(content)})

    def read(self, index: int) -> tuple[ImagePart, dict[str, Tensor]]:
        """What was measured of an image, and the image as every method restored it where it is to be shown.

        Args:
            index: Its number.

        Raises:
            FileNotFoundError: If there is no record of it.
        """
        with safe_open(self._file(index), framework="pt") as file:
            content: dict[str, Any] = json.loads(file.metadata()["content"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = [Row(key, Method(*method), *rest) for key, method, *rest in content["rows"]]
        features = {
            (label, name): (tensors[f"restored{i}"], tensors[f"gt_{name}"])
            for i, (label, name) in enumerate(content["features"])
        }
        shown = {label: tensors[f"example{i}"].to(torch.float32) / 255.0 for i, label in enumerate(content["example"])}
        return ImagePart(rows, content["truth"], features, content["deviations"]), shown

    def remove(self) -> None:
        """Delete all records, when the report is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06}.safetensors"

    def _check(self) -> None:
        """Refuse records of other settings."""
        path = self.folder / SETTINGS
        try:
            there: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            there = {}
        names = [name for name in {**self.settings, **there} if there.get(name) != self.settings.get(name)]
        if names:
            differences = "; ".join(f"{n}: {there.get(n)}, now {self.settings.get(n)}" for n in names)
            raise ValueError(
                f"Expected the settings of the measurement that is unfinished in '{self.folder}', found others "
                f"({differences}). Repeat the command that began it, name another --output, or delete the folder."
            )


def _is_whole(path: Path) -> bool:
    """Whether a record is there, and not damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return "content" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def open_records(
    output: str | Path | None,
    measurements: Measurements,
    settings: Mapping[str, Any],
    images: tuple[Sequence[Path], int],
    share: Share,
) -> Records | None:
    """Records of a measurement in a folder of results.

    Args:
        output: The folder; None keeps nothing, as of a model in memory, which nothing tells from others.
        measurements: The metrics, whose definitions and weights the records depend on.
        settings: What else they depend on; None and the device's name count for nothing.
        images: The files of the data set in order, and the number of images.
        share: The part of this process.

    Raises:
        ValueError: If there are parts, but no folder; or the folder holds records of other settings.
    """
    if output is None:
        if share.ranks > 1:
            raise ValueError(
                f"Expected a folder `output`, and a model that was read from a file, for {share.ranks} processes, "
                "found none. Name both, or measure in one process."
            )
        return None
    metrics = protocol(measurements)["metrics"]
    files = {f"{name} weights": weights for name, facts in metrics.items() if (weights := _hashes(facts["weights"]))}
    described = {
        **{name: str(value) for name, value in settings.items() if name != "device" and value is not None},
        "metrics": ", ".join(f"{name} ({facts['definition']})" for name, facts in metrics.items()),
        **files,
        "border crop": str(measurements.border),
        "kind of device": measurements.device.type,
        "images": describe_files(*images),
        "versions": " ".join(f"{name} {version}" for name, version in versions().items() if name in RELEVANT),
    }
    return Records(Path(output).expanduser(), described, images[1], share)


def _hashes(files: Sequence[Mapping[str, str]]) -> str:
    return " ".join(file["sha256"][:12] for file in files)


def describe_files(paths: Sequence[Path], total: int) -> str:
    """A data set for the settings of its records: the number of images, and a hash of names and sizes of its files.

    Args:
        paths: The files, in order.
        total: Number of images.
    """
    digest = blake2b(digest_size=8)
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
    return f"{total} of {len(paths)} files {digest.hexdigest()}"
