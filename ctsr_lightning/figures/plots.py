"""Pictures of results: the trade-off curve and labelled rows of images. Data in, picture out; no files, no loggers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ctsr_lightning.frontier import Axis, Point

_CURVE_COLOURS = (
    "#1f5fa8",
    "#c2571a",
    "#3b8f4f",
    "#8a4fa3",
    "#0d9aa8",
    "#a8861f",
    "#c23a7a",
    "#5b6b7a",
    "#7a4a32",
    "#5157d6",
    "#8fbf3f",
    "#e58a7a",
)
_LEGEND_COLUMNS = 4  # fewer where names are long
_MARKERS = ("s", "D", "^", "v", "P", "X")
_REACH = 1.25  # markers farther from the curves than this many of their spans are drawn at the border
_DIRECTIONS = np.array([(math.cos(eighth * math.pi / 4), math.sin(eighth * math.pi / 4)) for eighth in range(8)])
_DEGENERATE = 0.02  # curves shorter than this share of everything are no scale to judge distance by


def curve_colour(index: int) -> str:
    """Colour of a curve by its place in the order, the same in every picture."""
    return _CURVE_COLOURS[index % len(_CURVE_COLOURS)]


def curve_looks(names: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """Colour of each curve, and whether it is dashed: `X's own ends` after a curve `X` has its colour, dashed."""
    looks: dict[str, tuple[str, bool]] = {}
    for name in names:
        owner = max((other for other in looks if name.startswith(f"{other}'s ")), key=len, default=None)
        number = sum(not dashed for _, dashed in looks.values())
        looks[name] = (curve_colour(number), False) if owner is None else (looks[owner][0], True)
    return looks


def marker_grey(index: int, count: int) -> float:
    """Brightness in [0, 1] of a single method's marker by its place among `count`."""
    return 0.15 + 0.45 * index / max(count, 1)


def axis_title(axis: Axis) -> str:
    """Title of an axis in every picture."""
    return f"{axis.name} ({'higher' if axis.higher_is_better else 'lower'} is better)"


def axis_range(curves: Sequence[float], markers: Sequence[float]) -> tuple[float, float]:
    """Range of one axis, smallest and largest value: the curves, markers within reach of them, and a margin.

    A marker far away would squeeze the curves into a corner; it is for the caller to say that it lies outside.

    Args:
        curves: Finite values of all curves' points on this axis; without any, all markers are shown.
        markers: Finite values of single methods.
    """
    everything = [*curves, *markers] or [0.5]
    low, high = min(curves or everything), max(curves or everything)
    if high - low > _DEGENERATE * (max(everything) - min(everything)):
        reach = _REACH * (high - low)
        everything = [value for value in everything if low - reach <= value <= high + reach]
    low, high = min(everything), max(everything)
    margin = 0.12 * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - margin, high + margin


def tradeoff_figure(
    curves: Mapping[str, Sequence[Point]],
    markers: Sequence[Point],
    x: Axis,
    y: Axis,
    title: str = "",
) -> Figure:
    """Draw the perception-distortion plane, both axes turned so that better is up and to the right.

    The first and the last point of each solid curve carry their label, those between where there is room. The axes
    show the curves and what lies near them; a single method far away stands at the border with an arrow and its values.
    Points with a value that is not finite are left out, and the legend says so.

    Args:
        curves: Curves by name, each a series of points in the order of their parameter; looks as in `curve_looks`.
        markers: Single methods: bicubic, teachers.
        x: The horizontal metric, usually PSNR-Y.
        y: The vertical metric, usually a perceptual distance.
        title: Title above the plot.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not any(curves.values()) and not markers:
        raise ValueError("Expected at least one curve or marker to draw, found none.")
    figure = Figure(figsize=(7.6, 6.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = {name: [p for p in points if _is_finite(p)] for name, points in curves.items()}
    on_curves, single = [p for points in drawn.values() for p in points], [p for p in markers if _is_finite(p)]
    across = axis_range([p.x for p in on_curves], [p.x for p in single])
    up = axis_range([p.y for p in on_curves], [p.y for p in single])
    axes.set_xlim(*(across if x.higher_is_better else across[::-1]))
    axes.set_ylim(*(up if y.higher_is_better else up[::-1]))
    box = Bbox([(across[0], up[0]), (across[1], up[1])])
    looks = curve_looks(drawn)
    for name, points in drawn.items():
        lost = len(curves[name]) - len(points)
        label = f"{name} ({lost} of {len(curves[name])} not finite)" if lost else name
        xs, ys = [p.x for p in points], [p.y for p in points]
        colour, dashed = looks[name]
        (line,) = axes.plot(xs, ys, "o--" if dashed else "o-", color=colour, label=label, zorder=3, markersize=5)
        line.set_markerfacecolor("white" if dashed else colour)
    outside = [_draw_marker(axes, point, index, len(markers), box) for index, point in enumerate(markers)]
    axes.set_xlabel(axis_title(x))
    axes.set_ylabel(axis_title(y))
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_title("better \N{NORTH EAST ARROW}", fontsize=10, loc="right", color="0.45")
    _draw_legend(figure, len(curves) + len(markers))
    figure.set_layout_engine("none")
    _place_labels(axes, drawn, [label for label in outside if label is not None])
    return figure


def render(figure: Figure) -> Tensor:
    """Render a figure to an image in [0, 1], shape (3, H, W)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0


def labelled_row(columns: Mapping[str, Tensor], gap: int = 4) -> Tensor:
    """Lay images side by side, each under its name, on white; shape (3, H, W) in [0, 1].

    Args:
        columns: Images in [0, 1] by name, each (3, h, w), all of one height.
        gap: White space between images in pixels.
    """
    pictures = {name: image.detach().float().clamp(0, 1).cpu() for name, image in columns.items()}
    strips = [torch.cat([_label(name, picture.shape[-1]), picture], dim=1) for name, picture in pictures.items()]
    space = torch.ones(3, strips[0].shape[1], gap)
    spaced = [part for strip in strips for part in (strip, space)]
    return torch.cat(spaced[:-1], dim=2)


def stack_rows(rows: Sequence[Tensor], gap: int = 8) -> Tensor:
    """Stack pictures of any size below each other, flush left on white; shape (3, H, W).

    Args:
        rows: Pictures in [0, 1], each (3, h, w).
        gap: White space between rows in pixels.
    """
    canvas = torch.ones(3, sum(row.shape[1] + gap for row in rows) - gap, max(row.shape[2] for row in rows))
    top = 0
    for row in rows:
        canvas[:, top : top + row.shape[1], : row.shape[2]] = row
        top += row.shape[1] + gap
    return canvas


def _label(text: str, width: int) -> Tensor:
    """A strip of the image's width with its name, dark on white, smaller where the name is long."""
    height, size = 22, 15
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    while size > 7 and draw.textlength(text, font=ImageFont.load_default(size)) > width - 2:
        size -= 1
    draw.text((width / 2, height / 2), text, fill=(30, 30, 30), font=ImageFont.load_default(size), anchor="mm")
    return torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1).float() / 255.0


class _Label(NamedTuple):
    """A text beside a place in data coordinates."""

    text: str
    x: float
    y: float
    colour: str
    always: bool


def _is_finite(point: Point) -> bool:
    return math.isfinite(point.x) and math.isfinite(point.y)


def _draw_legend(figure: Figure, entries: int) -> None:
    """Draw the legend below the axes, in rows of equal length that fit the figure; the layout is final then."""
    for most in range(_LEGEND_COLUMNS, 0, -1):
        columns = math.ceil(entries / math.ceil(entries / most))
        legend = figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        figure.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _draw_marker(axes: Axes, point: Point, index: int, count: int, box: Bbox) -> _Label | None:
    """Draw a single method; one that lies outside goes to the border, and its label with the values is returned."""
    grey = str(marker_grey(index, count))
    inside = box.contains(point.x, point.y)
    across, up = (
        value if inside else float(np.clip(value, low + 0.05 * (high - low), high - 0.05 * (high - low)))
        for value, (low, high) in ((point.x, box.intervalx), (point.y, box.intervaly))
    )
    axes.plot(  # hollow and larger than a curve's points, to be seen around the end of a curve
        across,
        up,
        marker=_MARKERS[index % len(_MARKERS)],
        color=grey,
        label=point.label if inside else f"{point.label} ({'off the scale' if _is_finite(point) else 'not finite'})",
        markerfacecolor="none",
        markeredgewidth=1.6,
        markersize=10,
        linestyle="none",
        zorder=2,
    )
    if inside or not _is_finite(point):
        return None
    border = float(np.clip(point.x, *box.intervalx)), float(np.clip(point.y, *box.intervaly))
    axes.annotate("", border, (across, up), arrowprops={"arrowstyle": "-|>", "color": grey, "shrinkA": 6, "shrinkB": 0})
    return _Label(f"{point.label}: {point.x:.4g}, {point.y:.4g}", across, up, grey, always=True)


def _place_labels(axes: Axes, curves: Mapping[str, Sequence[Point]], outside: Sequence[_Label]) -> None:
    """Write labels where they cover neither points nor lines nor each other; ends first, then what still fits."""
    labels, looks = list(outside), curve_looks(curves)
    paths = [_trace(axes, np.asarray(line.get_xydata())) for line in axes.lines]
    for name, points in curves.items():
        colour, dashed = looks[name]
        if dashed:  # it would only crowd the labels of the other curve, which has the same ends
            continue
        last = len(points) - 1
        order = sorted(range(1, last), key=lambda i: -(i & -i))  # halves before quarters before eighths
        for index in dict.fromkeys([0, last, *order] if points else []):
            point = points[index]
            labels.append(_Label(point.label, point.x, point.y, colour, always=index in {0, last}))
    rings = [
        path + 12.0 * _DIRECTIONS
        for path, line in zip(paths, axes.lines, strict=True)
        if line.get_linestyle() == "None"
    ]
    ink = np.concatenate([*paths, *rings])
    dots = axes.transData.transform(np.array([(p.x, p.y) for points in curves.values() for p in points]).reshape(-1, 2))
    taken: list[Bbox] = []
    for label in sorted(labels, key=lambda label: not label.always):
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            color=label.colour,
            zorder=4,
        )
        cost, shift, space = min(_candidates(axes, text, ink, dots, taken), key=lambda candidate: candidate[0])
        if cost and not label.always:
            text.remove()
            continue
        text.set_position(shift)
        taken.append(space)


def _trace(axes: Axes, vertices: np.ndarray) -> np.ndarray:
    """Pixels along a line through data coordinates, about every third one, shape (n, 2)."""
    corners = axes.transData.transform(vertices.reshape(-1, 2))
    parts = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 3)) for a, b in pairwise(corners)]
    return np.concatenate([corners, *parts])


def _candidates(
    axes: Axes, text: Annotation, ink: np.ndarray, dots: np.ndarray, taken: Sequence[Bbox]
) -> Iterator[tuple[float, tuple[float, float], Bbox]]:
    """Places for a label: what each covers (0 for nothing), the shift from its point in points, its box in pixels."""
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.dpi / 72.0  # pixels per point
    box = text.get_window_extent().padded(2.0)  # around its point, until it is shifted
    own = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2.0
    for radius in (9.0, 15.0, 22.0):
        for eighth in (1, 7, 3, 5, 0, 4, 2, 6):  # the upper right first: a frontier has nothing there
            direction = _DIRECTIONS[eighth]
            shift = direction * (radius * scale) + np.round(direction) * (np.array(box.size) / 2.0 - 3.0 * scale)
            place = box.translated(*shift)
            covered = np.all((ink > place.min) & (ink < place.max), axis=1).sum()
            clashes = sum(place.overlaps(other) for other in taken)
            leaves = not (axes.bbox.contains(*place.min) and axes.bbox.contains(*place.max))
            gaps = np.hypot(*np.maximum(np.maximum(place.min - dots, dots - place.max), 0.0).T)
            mine = np.hypot(*np.maximum(np.maximum(place.min - own, own - place.max), 0.0))
            stray = bool((gaps < mine - 1.0).any())  # nearer to another point than to its own
            yield covered + 20.0 * stray + 200.0 * clashes + 500.0 * leaves, tuple(shift / scale), place
