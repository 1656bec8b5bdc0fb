"""The files that `ctsr sweep` leaves: tables, plot, and a record of how they were made."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

BICUBIC = "bicubic"
"""Label of the baseline."""

PROTOCOL = {
    "rounding": "8 bits",
    "border_crop": 0,
    "psnr_y": "PSNR on Y of BT.601 YCbCr, dB",
    "ssim_y": "SSIM on Y of BT.601 YCbCr, 11x11 Gaussian window",
    "reduction": "mean over images",
}


@dataclass(frozen=True)
class Row:
    """One image at one setting.

    Args:
        key: The image.
        label: The setting, for example `t=0.50` or `bicubic`.
        control: t, or None where there is none.
        values: Metrics by name.
        seconds: Time of this restoration, with its share of the pass that all t have in common.
    """

    key: str
    label: str
    control: float | None
    values: Mapping[str, float]
    seconds: float


@dataclass
class Table:
    """All measurements.

    Args:
        higher_is_better: Direction of each metric by name.
        perceptual: Name of the perceptual distance among them.
        rows: The measurements.
    """

    higher_is_better: Mapping[str, bool]
    perceptual: str
    rows: list[Row] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of images."""
        return len({row.key for row in self.rows})

    def means(self) -> list[Row]:
        """One row per setting: means over images, in the order of measurement."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.label, []).append(row)
        return [
            Row(
                "mean",
                label,
                rows[0].control,
                {name: _mean(row.values[name] for row in rows) for name in self.higher_is_better},
                _mean(row.seconds for row in rows),
            )
            for label, rows in grouped.items()
        ]


def write_report(folder: Path, table: Table, settings: Mapping[str, Any]) -> str:
    """Write every file and describe them for the terminal.

    Args:
        folder: The folder, made as needed.
        table: What was measured.
        settings: How; recorded as it is. `perceptual_is_lpips` says whether the distance is LPIPS or its stand-in.

    Returns:
        The table as Markdown and where the files are.
    """
    from ctsr_lightning.images import write_image
    from ctsr_lightning.metrics.plots import Axis, Point, render, tradeoff_figure

    folder.mkdir(parents=True, exist_ok=True)
    means, names = table.means(), list(table.higher_is_better)
    _write_csv(folder / "tradeoff.csv", ["setting", "t", *names, "seconds"], ([r.label, *_cells(r)] for r in means))
    _write_csv(
        folder / "per_image.csv",
        ["image", "setting", "t", *names, "seconds"],
        ([r.key, r.label, *_cells(r)] for r in table.rows),
    )
    text = markdown(table, settings)
    (folder / "tradeoff.md").write_text(text, encoding="utf-8")
    record = {
        "protocol": PROTOCOL | {"perceptual_distance": table.perceptual},
        "higher_is_better": dict(table.higher_is_better),
        "images": table.images,
        "settings": dict(settings),
        "versions": versions(),
        "results": [{"setting": r.label, "t": r.control, **r.values, "seconds": r.seconds} for r in means],
    }
    (folder / "tradeoff.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    x, y = (Axis(name, table.higher_is_better[name]) for name in ("psnr_y", table.perceptual))
    points = {r.label: Point(r.label, r.values[x.name], r.values[y.name]) for r in means}
    curve = [points[r.label] for r in means if r.control is not None]
    marks = [points[r.label] for r in means if r.control is None]
    figure = tradeoff_figure({"CTSR": curve}, marks, x, y, f"{table.images} images")
    write_image(folder / "tradeoff.png", render(figure))
    return f"{text}\n→ {folder}/tradeoff.csv, per_image.csv, tradeoff.md, tradeoff.png, tradeoff.json"


def markdown(table: Table, settings: Mapping[str, Any]) -> str:
    """The means as a Markdown table, with what a reader has to know about the numbers.

    Args:
        table: What was measured.
        settings: How.
    """
    names = list(table.higher_is_better)
    head = ["", *(f"{name} {'↑' if table.higher_is_better[name] else '↓'}" for name in names), "s / image"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in table.means():
        seconds = f"{row.seconds:.2f}" if row.control is not None else ""
        lines.append(f"| {row.label} | {' | '.join(f'{row.values[name]:.4f}' for name in names)} | {seconds} |")
    source = f"{settings['gt']}; low quality: {settings['lq']}"
    lines += ["", f"{table.images} images ({source}), x{settings['scale']}, 8-bit, Y of BT.601, no border crop."]
    if not settings["perceptual_is_lpips"]:
        lines.append(
            f"**{table.perceptual} is this project's stand-in, not LPIPS**, whose weights are not on this machine. "
            "Its values compare with each other only."
        )
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("ctsr-lightning", "torch", "torchvision", "torchmetrics", "diffusers", "lpips", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _cells(row: Row) -> list[Any]:
    return [
        "" if row.control is None else row.control,
        *(f"{v:.6f}" for v in row.values.values()),
        f"{row.seconds:.4f}",
    ]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
