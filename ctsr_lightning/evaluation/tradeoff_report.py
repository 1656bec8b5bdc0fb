"""The files that `ctsr sweep` leaves: tables, plots, what the curves amount to, and how all of it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctsr_lightning.evaluation.labels import FAITHFUL, REALISTIC
from ctsr_lightning.evaluation.measurements import Summary
from ctsr_lightning.evaluation.report import Report, count_images, markdown, write_json, write_means, write_per_image
from ctsr_lightning.figures.html import tradeoff_html
from ctsr_lightning.figures.plots import render, tradeoff_figure
from ctsr_lightning.frontier import Axis, Comparison, Monotone, Point, compare, monotone
from ctsr_lightning.images import write_image

IMPROVING = {"psnr_y": True, "ssim_y": True}
"""Metrics that are expected to improve as t grows towards fidelity; all others are expected to worsen."""


def write_report(
    folder: Path,
    report: Report,
    perceptual: str,
) -> str:
    """Write every file and describe them for the terminal.

    Args:
        folder: The folder, made as needed.
        report: The measurements.
        perceptual: Name of the perceptual distance, the vertical axis.
    """
    measurements = report.measurements
    folder.mkdir(parents=True, exist_ok=True)
    write_means(folder / "tradeoff.csv", measurements)
    write_per_image(folder / "per_image.csv", measurements)
    # Metrics that are best in the middle have no better end: they are no axis and cannot be monotone.
    better = {name: higher for name, higher in measurements.higher_is_better.items() if higher is not None}
    axes = (Axis("psnr_y", better["psnr_y"]), Axis(perceptual, better[perceptual]))
    summaries = [s for s in measurements.summaries() if s.values]
    curves, markers = planes(summaries, *axes)
    verdicts, comparison = judge(summaries, better, curves, markers, axes)
    sentences = [verdict.sentence() for verdict in verdicts] + ([comparison.sentence()] if comparison else [])
    verdict_list = ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []
    text = markdown(measurements, report.source, [*verdict_list, *report.notes])
    (folder / "tradeoff.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    frontier = {
        "monotone": {verdict.metric: verdict.as_dict() for verdict in verdicts},
        "blend": comparison.as_dict() if comparison else None,
    }
    write_json(folder / "tradeoff.json", report.as_dict(frontier=frontier))
    title = f"{count_images(measurements)}, {report.source}"
    write_image(folder / "tradeoff.png", render(tradeoff_figure(curves, markers, *axes, title)))
    choices = [Axis(name, higher) for name, higher in better.items()]
    page = tradeoff_html(curves, markers, *axes, title, " ".join(sentences), choices)
    (folder / "tradeoff.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    names = "tradeoff.csv, per_image.csv, tradeoff.md, tradeoff.png, tradeoff.html, tradeoff.json"
    return f"{text}\n→ {folder}/{names}"


def planes(summaries: Sequence[Summary], x: Axis, y: Axis) -> tuple[dict[str, list[Point]], list[Point]]:
    """Curves and single points on the perception-distortion plane.

    Args:
        summaries: The methods.
        x: The horizontal metric.
        y: The vertical metric.

    Returns:
        `CTSR` over t and `blend` over α with the teachers at its ends; teachers, experts and bicubic by themselves.
    """

    def point(summary: Summary) -> Point:
        seconds = {} if summary.seconds is None else {"seconds": summary.seconds}
        label = summary.method.label.removeprefix("blend ")  # the curve says that already
        values = {name: value for name, value in summary.values.items() if not math.isnan(value)}
        return Point(label, summary.values[x.name], summary.values[y.name], {**values, **seconds})

    by_label = {s.method.label: point(s) for s in summaries}
    kinds = {
        kind: [point(s) for s in summaries if s.method.kind == kind]
        for kind in ("ctsr", "blend", "teacher", "expert", "bicubic")
    }
    curves = {"CTSR": kinds["ctsr"]} if kinds["ctsr"] else {}
    if {FAITHFUL, REALISTIC} <= by_label.keys():
        curves["blend"] = [by_label[REALISTIC], *kinds["blend"], by_label[FAITHFUL]]
    return curves, kinds["teacher"] + kinds["expert"] + kinds["bicubic"]


def judge(
    summaries: Sequence[Summary],
    better: Mapping[str, bool],
    curves: Mapping[str, Sequence[Point]],
    markers: Sequence[Point],
    axes: tuple[Axis, Axis],
) -> tuple[list[Monotone], Comparison | None]:
    """Whether the curve over t is monotone in every metric, and how it stands against the blend.

    Args:
        summaries: The methods.
        better: Direction of each metric.
        curves: The curves of `planes`.
        markers: The single points of `planes`.
        axes: The two metrics of the plane.
    """
    swept = [s for s in summaries if s.method.kind == "ctsr"]
    if len(swept) < 2:
        return [], None
    labels = [s.method.label for s in swept]
    verdicts = [
        monotone(labels, [s.values[name] for s in swept], Axis(name, better[name]), IMPROVING.get(name, False))
        for name in better
    ]
    if "blend" not in curves:
        return verdicts, None
    return verdicts, compare(curves["CTSR"], curves["blend"], markers, *axes)
