"""Reports of measurements: values per image, a summary with the protocol, a Markdown table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctsr_lightning.evaluation.labels import BICUBIC, GRID, GROUND_TRUTH, PER_IMAGE
from ctsr_lightning.evaluation.measurements import Measurements, Summary
from ctsr_lightning.evaluation.methods import Method
from ctsr_lightning.evaluation.protocol import protocol, versions
from ctsr_lightning.evaluation.records import Records
from ctsr_lightning.metrics.grid import GridCheck, GridEnergy
from ctsr_lightning.metrics.lattice import Lattice, LatticeCheck
from ctsr_lightning.tables import markdown_table

DIGITS = 8
"""Decimals in CSV files; published per-image figures have six."""
_METHOD = ("setting", "curve", "t", "alpha", "steps")
"""Columns of a method in CSV files."""
SUMMARY, TABLE = "summary.json", "summary.md"
"""Files of a report beside the values per image."""


@dataclass
class Report:
    """Measurements, and how they came about."""

    measurements: Measurements
    name: str
    """Name of the method that was measured."""
    source: str
    """Where the images are from."""
    benchmark: str | None = None
    """Name of the data set, where it has one."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Model, files and options."""
    notes: list[str] = field(default_factory=list)
    """Paragraphs for the reader of the table."""
    records: Records | None = None
    """What was measured of each image, on disk until the report is written."""
    missing: int = 0
    """Images that other processes have yet to measure; the report covers the others alone then."""

    def unfinished(self) -> str:
        """How far the processes together are; empty if all images are measured."""
        if not self.missing or self.records is None:
            return ""
        total, folder = self.records.total, self.records.folder
        return (
            f"{total - self.missing} of {total} images are measured, in '{folder}'. The process that measures the last "
            "one writes the report; where one was interrupted, its command goes on."
        )

    def complete(self) -> None:
        """Delete the records of the images: the report is written."""
        if self.records is not None:
            self.records.remove()

    def to_markdown(self) -> str:
        """Means over images as a Markdown table, with the notes."""
        return markdown(self.measurements, self.source, self.notes)

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """Everything but the values per image, as plain data.

        Args:
            **more: Further entries.
        """
        identity = {"name": self.name, "benchmark": self.benchmark, "source": self.source}
        return record(self.measurements, identity, self.settings, **more)

    def save(self, folder: str | Path) -> Path:
        """Write per_image.csv, summary.json and summary.md.

        Args:
            folder: The folder, made as needed.

        Returns:
            The folder.
        """
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_per_image(folder / PER_IMAGE, self.measurements)
        write_json(folder / SUMMARY, self.as_dict())
        (folder / TABLE).write_text(self.to_markdown(), encoding="utf-8", errors="backslashreplace")
        self.complete()
        return folder


def heading(name: str, higher_is_better: bool | None) -> str:
    """A metric as the head of a column: its name, and which way is better.

    Args:
        name: The metric.
        higher_is_better: Its direction; None where the best value is that of the ground truth.
    """
    middle = "→ 1" if name == GRID else "dB → gt"
    return f"{name} {({True: '↑', False: '↓', None: middle})[higher_is_better]}"


def write_per_image(path: Path, measurements: Measurements) -> None:
    """Write one line per image, method and run.

    Args:
        path: The CSV file.
        measurements: The measurements; those of finished files have no columns for the method.
    """
    names = measurements.per_image
    plain = all(row.method.kind == "restored" for row in measurements.rows)
    method = [] if plain else list(_METHOD)
    run = ["seed"] if measurements.runs > 1 else []
    clock = [] if plain else ["seconds"]

    def lines() -> Iterable[list[Any]]:
        for row in measurements.rows:
            cells: list[Any] = [row.key]
            cells += [] if plain else _cells(row.method)
            cells += [row.seed] if run else []
            cells += [_decimals(row.values[name], DIGITS) for name in names]
            yield cells + ([] if plain else [_number(row.seconds)])

    write_csv(path, ["image", *method, *run, *names, *clock], lines())


def write_means(path: Path, measurements: Measurements) -> None:
    """Write one line per method.

    Args:
        path: The CSV file.
        measurements: The measurements.
    """
    names = list(measurements.metrics)
    write_csv(
        path,
        [*_METHOD, *names, "l_std", "seconds", "further"],
        (
            [
                *_cells(s.method),
                *(_decimals(s.values[name], DIGITS) for name in names),
                "" if s.stability is None else _decimals(s.stability["l_std"], DIGITS),
                _number(s.seconds),
                _number(s.further),
            ]
            for s in measurements.summaries()
        ),
    )


def record(
    measurements: Measurements, identity: Mapping[str, Any], settings: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """The summary as plain data.

    Args:
        measurements: The measurements.
        identity: `name` of what was measured, the `benchmark` it was measured on, if it has a name, and the `source`.
        settings: How they came about: files, model, options.
        **more: Further entries.
    """
    return {
        **identity,
        "protocol": protocol(measurements),
        "images": measurements.images,
        "runs": measurements.runs,
        "results": [_result(summary) for summary in measurements.summaries()],
        **({GRID: check.as_dict()} if (check := grid_check(measurements)) else {}),
        "lattice": {name: check.as_dict() for name, check in lattice_checks(measurements).items()},
        **more,
        "settings": dict(settings),
        "versions": versions(),
    }


def grid_check(measurements: Measurements) -> GridCheck | None:
    """Whether the model, at every t, or the restored files have the grid energy of the ground truth.

    Args:
        measurements: The measurements.

    Returns:
        The check; None where grid energy was not measured, or neither a model nor files.
    """
    metric = measurements.metrics.get(GRID)
    if not isinstance(metric, GridEnergy):
        return None
    summaries = measurements.summaries()
    found = {s.method.label: s.values[GRID] for s in summaries if s.method.kind in {"ctsr", "restored"}}
    bicubic = [s.values[GRID] for s in summaries if s.method.label == BICUBIC]  # the input of scale 1 is not enlarged
    every = "t" if any(s.method.kind == "ctsr" for s in summaries) else ""
    return GridCheck(metric.factor, found, every, *bicubic) if found else None


def lattice_checks(measurements: Measurements) -> dict[str, LatticeCheck]:
    """Whether a lattice stands out of the images of the model, at some t, or of the restored files, by metric.

    Args:
        measurements: The measurements.

    Returns:
        The checks; none for metrics that no image was large enough for, or where neither a model nor files are.
    """
    summaries = measurements.summaries()
    every = "t" if any(s.method.kind == "ctsr" for s in summaries) else ""
    checks = {}
    for name, truth in measurements.ground_truth.items():
        metric = measurements.metrics[name]
        found = {s.method.label: s.values[name] for s in summaries if s.method.kind in {"ctsr", "restored"}}
        if isinstance(metric, Lattice) and found and not math.isnan(truth):
            checks[name] = LatticeCheck(metric.factor, found, every, truth)
    return checks


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data, indented.

    Args:
        path: The file.
        value: The data.
    """
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def markdown(measurements: Measurements, source: str, notes: Sequence[str] = ()) -> str:
    """The means as a Markdown table, with what a reader has to know about the numbers.

    Args:
        measurements: The measurements.
        source: Where the images come from, for the line below the table.
        notes: Further paragraphs.
    """
    better = measurements.higher_is_better
    summaries = measurements.summaries()
    head = ["", "curve", *(heading(name, higher) for name, higher in better.items()), "s / image", "s / further"]
    rows = [
        [
            s.method.label,
            s.method.curve,
            *(_decimals(s.values[name], 4) for name in better),
            *("" if seconds is None else f"{seconds:.3f}" for seconds in (s.seconds, s.further)),
        ]
        for s in summaries
    ]
    truth = measurements.ground_truth
    if not all(math.isnan(value) for value in truth.values()):
        rows.append([GROUND_TRUTH, "", *(_decimals(truth.get(name, math.nan), 4) for name in better), "", ""])
    for column in (-1, -2, 1):  # of times and curves those that there are
        if not any(row[column] for row in rows):
            for cells in (head, *rows):
                del cells[column]
    border = f"{measurements.border} pixels cut off every side" if measurements.border else "no border crop"
    channels = "PSNR and SSIM on Y of BT.601" + ", psnr_rgb on RGB" * any(n.startswith("psnr_rgb") for n in better)
    lines = [
        markdown_table(head, rows),
        "",
        f"{count_images(measurements)} ({source}); rounded to 8 bits, {channels}, {border}.",
    ]
    if "s / further" in head:
        lines.append(
            "Times are those of a single setting; each further value of t (or α) costs what the last column says."
        )
    if measurements.runs > 1:
        lines += ["", *_stability(measurements, summaries)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def count_images(measurements: Measurements) -> str:
    """`1 image` or `100 images`."""
    return f"{measurements.images} image{'s' * (measurements.images != 1)}"


def _stability(measurements: Measurements, summaries: Sequence[Summary]) -> list[str]:
    """G-STD and L-STD as a table."""
    names = measurements.stable
    rows = []
    for summary in summaries:
        if summary.stability is not None and summary.method.kind != "bicubic":
            deviations = summary.stability["g_std"]
            cells = [f"{summary.stability['l_std']:.6g}", *(f"{deviations[name]:.6g}" for name in names)]
            rows.append([summary.method.label, *cells])
    return [
        f"Stability over {measurements.runs} seeds (CCSR Eq. 4-5): standard deviations, 0 is deterministic.",
        "",
        markdown_table(["", "L-STD", *(f"G-STD {name}" for name in names)], rows),
    ]


def _result(summary: Summary) -> dict[str, Any]:
    result: dict[str, Any] = {
        "setting": summary.method.label,
        "kind": summary.method.kind,
        "curve": summary.method.curve or None,
        **_parameters(summary.method),
        **{name: value if math.isfinite(value) else None for name, value in summary.values.items()},
        "spread": {name: value if math.isfinite(value) else None for name, value in summary.spread.items()},
        "seconds": summary.seconds,
        "further": summary.further,
    }
    if summary.stability is not None:
        result |= {name: summary.stability[name] for name in ("g_std", "l_std")}
    return result


def _parameters(method: Method) -> dict[str, float | None]:
    """The values of t, α and the number of steps, of which a method has at most one."""
    own = {"blend": "alpha", "steps": "steps"}.get(method.kind, "t")
    return {name: method.parameter if name == own else None for name in ("t", "alpha", "steps")}


def _cells(method: Method) -> list[Any]:
    """The cells of `_METHOD`."""
    return [method.label, method.curve, *("" if value is None else value for value in _parameters(method).values())]


def _decimals(value: float, digits: int) -> str:
    """A number; nothing where there is no value."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.4f}"


def write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a table.

    Args:
        path: The file.
        head: Names of the columns.
        lines: The rows.
    """
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)
