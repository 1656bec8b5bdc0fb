"""The pictures of `make claims`: the plane, what each variation changes, and the sweeps over weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctsr_lightning.evaluation.frontier import Axis, Point
from ctsr_lightning.evaluation.labels import BICUBIC
from ctsr_lightning.evaluation.plots import axis_title, curve_colour, render, tradeoff_figure
from ctsr_lightning.images import write_image
from recipes.claims.findings import Estimate, Findings, difference, estimate
from recipes.claims.plan import BASE, FULL, TEACHERS, Variation

STAGE_1: Final = f"stage1/{BASE}"
STAGE_2: Final = f"stage2/{BASE}"


def write_pictures(folder: Path, stem: str, findings: Findings, variations: Sequence[Variation]) -> dict[str, str]:
    """Draw what the records allow, as PNG files.

    Args:
        folder: Where the page is.
        stem: What their names begin with.
        findings: What was measured.
        variations: All variations, in the order of the pictures.

    Returns:
        File names by `tradeoff`, `changes` and `weights`.
    """
    figures: dict[str, Figure] = {}
    if TEACHERS in findings.measured:
        figures["tradeoff"] = tradeoff(findings)
    changed = [v for v in variations if v.group == "stage1" and v.name != BASE and v.key in findings.trained]
    if changed and STAGE_1 in findings.trained:
        figures["changes"] = changes(findings, changed)
    weights = sweeps(variations, findings)
    if weights and STAGE_1 in findings.trained:
        figures["weights"] = weight_sweeps(findings, weights)
    names = {name: f"{stem}_{name}.png" for name in figures}
    for name, figure in figures.items():
        write_image(folder / names[name], render(figure))
    return names


def tradeoff(findings: Findings) -> Figure:
    """The plane of claims (a) to (c): the teachers' blend, stage 1, the curve over t, each seed faint behind the mean.

    Args:
        findings: What was measured.
    """
    blend, teachers = findings.blend(), findings.measured[TEACHERS]
    curves: dict[str, list[Point]] = {}
    faint: list[Point] = []
    if STAGE_2 in findings.trained:
        runs = [findings.sweep(record) for record in findings.trained[STAGE_2].values()]
        curves["sweep over t"] = _mean(runs)
        curves["blend of T_r and T_f"] = blend
        curves["blend of S_1 and T_f"] = _unnamed_end([findings.mixture(r) for r in findings.trained[STAGE_2].values()])
        faint = [point for run in runs for point in run]
    else:
        curves["blend of T_r and T_f"] = blend
    if FULL in findings.measured:
        curves["sweep at full length"] = findings.sweep(findings.measured[FULL])
    markers = [findings.point(teachers, BICUBIC)]
    for key, label in ((STAGE_1, "S_1"), ("stage1/no_distillation", "S_1 without distillation")):
        if key in findings.trained:
            points = [[findings.point(record, "t=0.00", label)] for record in findings.trained[key].values()]
            markers += _mean(points)
    title = f"{len(teachers.images)} test images"
    if STAGE_2 in findings.trained:
        title += f", {len(findings.trained[STAGE_2])} seeds"
    figure = tradeoff_figure(curves, markers, *findings.axes, title)
    axes = figure.axes[0]
    axes.plot([p.x for p in faint], [p.y for p in faint], ".", color=curve_colour(0), alpha=0.3, zorder=1)
    return figure


def changes(findings: Findings, variations: Sequence[Variation]) -> Figure:
    """What each variation of stage 1 changes, with two standard errors on both sides; better is to the right.

    Args:
        findings: What was measured.
        variations: The variations, from the top.
    """
    figure = Figure(figsize=(9.0, 1.6 + 0.32 * len(variations)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    rows = range(len(variations))
    for panel, axis in zip(panels, findings.axes, strict=True):
        base = findings.values(STAGE_1, axis.name)
        found = [difference(findings.values(v.key, axis.name), base) for v in variations]
        panel.axvline(0.0, color="0.6", linewidth=1.0)
        for row, value in zip(rows, found, strict=True):
            colour = curve_colour(0) if value.sign and value.repeats > 1 else "0.6"
            panel.errorbar(value.mean, row, xerr=_bar(value), fmt="o", color=colour, markersize=5, capsize=3)
        panel.set_xlabel(f"change in {axis_title(axis)}")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.grid(visible=True, axis="x", color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        if not axis.higher_is_better:
            panel.invert_xaxis()
    panels[0].set_yticks(list(rows), [v.text.replace("`", "") for v in variations])
    panels[0].invert_yaxis()
    panels[0].set_title("Stage 1: change from the configured training", fontsize=11, loc="left")
    panels[1].set_title("better →", fontsize=10, loc="right", color="0.45")
    return figure


def sweeps(variations: Sequence[Variation], findings: Findings) -> dict[str, list[tuple[str, str]]]:
    """The values tried of each weight, in order: title of the panel to label and variation.

    Args:
        variations: All variations.
        findings: What was measured; values without a record are left out.
    """
    gammas = sorted((v.gamma, v.key) for v in variations if v.gamma is not None)
    tried = {
        "γ_time": [(f"{value:g}", key) for value, key in gammas],
        "λ_fl": [("0", "stage1/no_fidelity"), ("configured", STAGE_1), ("raised", "stage1/fidelity_up")],
        "λ_rn": [("0", "stage1/no_realness"), ("configured", STAGE_1), ("raised", "stage1/realness_up")],
    }
    known = {name: [(label, key) for label, key in values if key in findings.trained] for name, values in tried.items()}
    return {name: values for name, values in known.items() if len(values) > 1}


def weight_sweeps(findings: Findings, weights: Mapping[str, Sequence[tuple[str, str]]]) -> Figure:
    """Both metrics over the values tried of each weight, with the standard deviation over seeds; better is up.

    Args:
        findings: What was measured.
        weights: What `sweeps` gives.
    """
    figure = Figure(figsize=(3.2 * len(weights) + 0.8, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(weights), squeeze=False, sharey="row", sharex="col")
    for column, (name, values) in enumerate(weights.items()):
        for row, axis in enumerate(findings.axes):
            _draw_sweep(grid[row][column], findings, axis, values)
        grid[1][column].set_xticks(range(len(values)), [label for label, _ in values])
        grid[1][column].set_xlabel(name)
    for row, axis in enumerate(findings.axes):
        grid[row][0].set_ylabel(axis_title(axis))
        if not axis.higher_is_better:
            grid[row][0].invert_yaxis()
    grid[0][0].set_title("Stage 1: weights of the distillation (large: as configured)", fontsize=11, loc="left")
    grid[0][-1].set_title("better ↑", fontsize=10, loc="right", color="0.45")
    return figure


def _draw_sweep(panel: object, findings: Findings, axis: Axis, values: Sequence[tuple[str, str]]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    found = [estimate(list(findings.values(key, axis.name).values())) for _, key in values]
    means, bars = [value.mean for value in found], [value.sd if value.repeats > 1 else 0.0 for value in found]
    panel.errorbar(range(len(values)), means, yerr=bars, fmt="o-", color=curve_colour(0), markersize=5, capsize=3)
    here = [key for _, key in values].index(STAGE_1)
    panel.plot(here, means[here], "o", color=curve_colour(1), markersize=8, zorder=3)
    panel.grid(visible=True, color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _bar(value: Estimate) -> float:
    """Half the length of an error bar."""
    return 2.0 * value.se if value.repeats > 1 else 0.0


def _mean(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of several curves, point by point."""
    count = len(runs)
    return [
        Point(run[0].label, sum(p.x for p in run) / count, sum(p.y for p in run) / count)
        for run in zip(*runs, strict=True)
    ]


def _unnamed_end(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of several curves whose common end another curve names."""
    *inner, end = _mean(runs)
    return [*inner, end._replace(label="")]
