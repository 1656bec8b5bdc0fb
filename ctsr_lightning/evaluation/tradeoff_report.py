"""The files that `ctsr sweep` leaves: tables, plots, what the curves amount to, and how all of it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ctsr_lightning.evaluation.labels import BLEND, FAITHFUL, OWN_ENDS
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
    verdicts, comparisons = judge(summaries, better, curves, markers, axes)
    sentences = [verdict.sentence() for own in verdicts.values() for verdict in own]
    sentences += [comparison.sentence() for comparison in comparisons]
    verdict_list = ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []
    text = markdown(measurements, report.source, [*verdict_list, *report.notes])
    (folder / "tradeoff.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    frontier = {
        "monotone": {curve: {v.metric: v.as_dict() for v in own} for curve, own in verdicts.items()},
        "compared": [comparison.as_dict() for comparison in comparisons],
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
        Curves by name, the model's first, those of blends with what they blend at their ends; all other methods.
    """

    def point(summary: Summary) -> Point:
        method = summary.method
        further = {"seconds": summary.seconds, "further": summary.further}
        if summary.stability is not None:
            further["l_std"] = summary.stability["l_std"]
        label = method.label.removeprefix(f"{method.curve} ").removeprefix("blend ")  # the curve says that already
        values = {name: value for name, value in summary.values.items() if not math.isnan(value)}
        extra = {**values, **{name: value for name, value in further.items() if value is not None}}
        return Point(label, summary.values[x.name], summary.values[y.name], extra)

    points = {s.method: point(s) for s in summaries}
    curves: dict[str, list[Point]] = {}
    ends: dict[tuple[str, float | None], Point] = {}
    for method, place in sorted(points.items(), key=lambda item: item[0].kind != "ctsr"):
        if method.curve:
            curves.setdefault(method.curve, []).append(place)
            ends[f"{method.curve}{OWN_ENDS}", method.parameter] = place
        elif method.kind == "teacher":
            ends[BLEND, float(method.label == FAITHFUL)] = place
    for name, blended in curves.items():
        if (name, 0.0) in ends:
            curves[name] = [ends[name, 0.0], *blended, ends[name, 1.0]]
    markers = [place for method, place in points.items() if not method.curve]
    return curves, markers


def judge(
    summaries: Sequence[Summary],
    better: Mapping[str, bool],
    curves: Mapping[str, Sequence[Point]],
    markers: Sequence[Point],
    axes: tuple[Axis, Axis],
) -> tuple[dict[str, list[Monotone]], list[Comparison]]:
    """Whether every curve over t is monotone in every metric, and how the curves stand to each other.

    Args:
        summaries: The methods.
        better: Direction of each metric.
        curves: The curves of `planes`.
        markers: The single points of `planes`.
        axes: The two metrics of the plane.

    Returns:
        The verdicts on each curve over t; the model's curve against every other, and each rival's against its own ends.
    """
    swept: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.method.kind in {"ctsr", "rival"} and summary.method.curve:
            swept.setdefault(summary.method.curve, []).append(summary)
    verdicts = {
        name: [
            monotone(
                [s.method.label for s in own],
                [s.values[metric] for s in own],
                Axis(metric, higher),
                IMPROVING.get(metric, False),
            )
            for metric, higher in better.items()
        ]
        for name, own in swept.items()
        if len(own) > 1
    }
    if not verdicts:
        return {}, []
    model, *others = curves
    pairs = [(model, name) for name in others] + [(name, f"{name}{OWN_ENDS}") for name in swept if name != model]
    everything = [*markers, *(place for places in curves.values() for place in places)]
    return verdicts, [
        compare(curves[one], curves[other], everything, *axes, (one, other)) for one, other in pairs if other in curves
    ]
