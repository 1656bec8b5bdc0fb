"""Pictures of `make claims`: the perception-distortion plane, the change by each experiment, sweeps over weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctsr_lightning.evaluation.labels import BICUBIC
from ctsr_lightning.figures.plots import axis_title, curve_colour, render, tradeoff_figure
from ctsr_lightning.frontier import Axis, Point
from ctsr_lightning.images import write_image
from recipes.claims.experiments import FULL, NO_DISTILLATION, STAGE_1, STAGE_2, TEACHERS
from recipes.claims.findings import Estimate, Findings


def write_pictures(folder: Path, stem: str, findings: Findings, settings: Mapping[str, Any]) -> dict[str, str]:
    """Draw the pictures as PNG files.

    Args:
        folder: Folder of the page.
        stem: First part of their names.
        findings: The measurements.
        settings: Stage 1's settings as configured.

    Returns:
        File names by `tradeoff`, `changes` and `weights`; without `weights` where no other value was tried.
    """
    figures = {"tradeoff": draw_tradeoff(findings), "changes": draw_changes(findings)}
    if weights := swept_weights(findings, settings):
        figures["weights"] = draw_weights(findings, weights)
    names = {name: f"{stem}_{name}.png" for name in figures}
    for name, figure in figures.items():
        write_image(folder / names[name], render(figure))
    return names


def draw_tradeoff(findings: Findings) -> Figure:
    """The plane of claims (a) to (c): blends, stage 1, and the curve over t, each seed faint behind the mean."""
    runs = list(findings.by_seed(STAGE_2, findings.sweep))
    *mixture, end = _mean_curve(findings.by_seed(STAGE_2, findings.mixture))
    curves = {
        "sweep over t": _mean_curve(runs),
        "blend of T_r and T_f": findings.blend(),
        "blend of S_1 and T_f": [*mixture, end._replace(label="")],  # T_f has its name from the curve before
    }
    if findings.full:
        curves["sweep at full length"] = findings.sweep(FULL, 0)
    markers = [findings.point(TEACHERS, 0, BICUBIC)]
    for key, label in ((STAGE_1, "S_1"), (NO_DISTILLATION, "S_1 without distillation")):
        (point,) = _mean_curve([[p] for p in findings.by_seed(key, findings.point)])
        markers.append(point._replace(label=label))
    images = len(findings.images(BICUBIC, findings.perceptual))
    figure = tradeoff_figure(curves, markers, *findings.axes, f"{images} test images, {len(runs)} seeds")
    faint = [point for run in runs for point in run]
    figure.axes[0].plot([p.x for p in faint], [p.y for p in faint], ".", color=curve_colour(0), alpha=0.3, zorder=1)
    return figure


def draw_changes(findings: Findings) -> Figure:
    """Changes by each experiment of stage 1, with two standard errors on both sides; better is to the right."""
    shown = [e for e in findings.experiments if e.group == "stage1" and e.key != STAGE_1]
    figure = Figure(figsize=(10.0, 1.6 + 0.32 * len(shown)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, axis in zip(panels, findings.axes, strict=True):
        panel.axvline(0.0, color="0.6", linewidth=1.0)
        for row, experiment in enumerate(shown):
            change = findings.change(experiment.key, STAGE_1, axis.name)
            several = change.repeats > 1
            colour = curve_colour(0) if change.sign and several else "0.6"
            bar = 2.0 * change.se if several else 0.0
            panel.errorbar(change.mean, row, xerr=bar, fmt="o", color=colour, markersize=5, capsize=3)
        panel.set_xlabel(f"change in {axis.name}")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        _style(panel, "x")
        if not axis.higher_is_better:
            panel.invert_xaxis()
    panels[0].set_yticks(range(len(shown)), [e.text.replace("`", "") for e in shown])
    panels[0].invert_yaxis()
    panels[0].set_title("Stage 1: change from the configured training", fontsize=11, loc="left")
    panels[1].set_title("better →", fontsize=10, loc="right", color="0.45")
    return figure


def swept_weights(findings: Findings, settings: Mapping[str, Any]) -> dict[str, list[tuple[float, str]]]:
    """Per weight of the distillation the values tried, in order, with their experiments; the configured one is base."""
    names = {"gamma_time": "γ_time", "lambda_fidelity": "λ_fl", "lambda_realness": "λ_rn"}
    tried = {name: [(e.overrides[name], e.key) for e in findings.tried(name)] for name in names}
    return {names[name]: sorted([(settings[name], STAGE_1), *values]) for name, values in tried.items() if values}


def draw_weights(findings: Findings, weights: Mapping[str, Sequence[tuple[float, str]]]) -> Figure:
    """Both metrics over the values tried of each weight, with the standard deviation over seeds; better is up."""
    figure = Figure(figsize=(3.2 * len(weights) + 0.8, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(weights), squeeze=False, sharey="row", sharex="col")
    for column, (name, values) in enumerate(weights.items()):
        for row, axis in enumerate(findings.axes):
            _draw_weight(grid[row][column], findings, axis, [key for _, key in values])
        grid[1][column].set_xticks(range(len(values)), [f"{value:g}" for value, _ in values])
        grid[1][column].set_xlabel(name)
    for row, axis in enumerate(findings.axes):
        grid[row][0].set_ylabel(axis_title(axis))
        if not axis.higher_is_better:
            grid[row][0].invert_yaxis()
    grid[0][0].set_title("Stage 1: weights of the distillation (large: as configured)", fontsize=11, loc="left")
    grid[0][-1].set_title("better ↑", fontsize=10, loc="right", color="0.45")
    return figure


def _draw_weight(panel: Axes, findings: Findings, axis: Axis, keys: Sequence[str]) -> None:
    found = [Estimate.of(findings.metric(key, axis.name)) for key in keys]
    means, bars = [value.mean for value in found], [value.sd if value.repeats > 1 else 0.0 for value in found]
    panel.errorbar(range(len(keys)), means, yerr=bars, fmt="o-", color=curve_colour(0), markersize=5, capsize=3)
    here = keys.index(STAGE_1)
    panel.plot(here, means[here], "o", color=curve_colour(1), markersize=8, zorder=3)
    _style(panel, "both")


def _style(panel: Axes, grid: Literal["both", "x"]) -> None:
    panel.grid(visible=True, axis=grid, color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _mean_curve(runs: Any) -> list[Point]:
    """The mean of several curves, point by point."""
    return [
        Point(points[0].label, sum(p.x for p in points) / len(points), sum(p.y for p in points) / len(points))
        for points in zip(*runs, strict=True)
    ]
