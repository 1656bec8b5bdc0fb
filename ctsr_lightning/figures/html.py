"""The trade-off plot as a web page: every metric on either axis, all values under the pointer, no connection needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ctsr_lightning.figures.plots import axis_range, axis_title, curve_looks, marker_grey
from ctsr_lightning.frontier import Axis, Point

_SYMBOLS = ("square-open", "diamond-open", "triangle-up-open", "triangle-down-open", "cross-open", "x-open")

_HINT = (
    "Point at a dot to read its values. A click on a name in the legend hides it, dragging zooms, a double click shows "
    "everything, methods far from the curves included; choosing a metric returns to the curves."
)

_CONFIG = {
    "responsive": True,
    "doubleClick": "autosize",
    "displaylogo": False,
    "showSendToCloud": False,  # the page keeps its data to itself
    "modeBarButtons": [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]],
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 1.2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.25em; margin: 0 0 0.3em; }}
p {{ margin: 0.4em 0; }}
.hint {{ color: #666; font-size: 0.9em; }}
</style>
</head>
<body>
<h1>{title}</h1>
{plot}
<p>{notes}</p>
<p class="hint">{hint}</p>
</body>
</html>
"""


def tradeoff_html(
    curves: Mapping[str, Sequence[Point]],
    markers: Sequence[Point],
    x: Axis,
    y: Axis,
    title: str = "",
    notes: str = "",
    choices: Sequence[Axis] = (),
) -> str:
    """Draw what `tradeoff_figure` draws, in the same colours and with better up and to the right, as one HTML page.

    The page holds plotly.js (about 5 MB) and loads nothing. Pointing at a dot shows its metrics and everything in its
    `extra`; menus put other metrics on the axes.

    Args:
        curves: Curves by name, each a series of points in the order of their parameter.
        markers: Single methods: bicubic, teachers.
        x: The horizontal metric at first.
        y: The vertical metric at first.
        title: Title of the page.
        notes: Text below the plot: how many images, which protocol.
        choices: Metrics that the menus offer beside `x` and `y`; their values are those of this name in `extra`, and
            a point without one is left out while the metric is shown.

    Raises:
        ValueError: If there is nothing to draw, or no point has a value of one of the choices.
    """
    from plotly import graph_objects, io

    if not any(curves.values()) and not markers:
        raise ValueError("Expected at least one curve or marker to draw, found none.")
    groups = [*curves.values(), *([point] for point in markers)]
    offered = {axis.name: axis for axis in (x, y, *choices, x, y)}  # in this order; the axes' own directions hold
    for name in offered:
        if not any(_value(point, name, x, y) is not None for points in groups for point in points):
            raise ValueError(
                f"Expected values of {name}, found none at any point: put them into the points' `extra`, or leave it "
                "out of `choices`."
            )
    traces = []
    for name, (colour, dashed) in curve_looks(curves).items():
        points = curves[name]
        named = set() if dashed else {0, len(points) - 1}  # the ends of a dashed curve are another's
        traces.append(
            graph_objects.Scatter(
                name=escape(name),
                mode="lines+markers+text",
                line={"color": colour, "width": 2, "dash": "dash" if dashed else "solid"},
                marker={"size": 7 if dashed else 9},
                text=[escape(p.label) if place in named else "" for place, p in enumerate(points)],
                textposition="top right",
                textfont={"color": colour},
                **_data(name, points, x, y),
            )
        )
    for index, point in enumerate(markers):
        grey = round(255 * marker_grey(index, len(markers)))
        look = {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 14, "color": f"rgb({grey},{grey},{grey})"}
        traces.append(
            graph_objects.Scatter(
                name=escape(point.label),
                mode="markers",
                marker=look | {"line": {"width": 2}},
                **_data("", [point], x, y),
            )
        )
    views = {name: _view(axis, curves, markers, x, y) for name, axis in offered.items()}
    figure = graph_objects.Figure(traces)
    figure.update_layout(
        template="plotly_white",
        hovermode="closest",
        hoverlabel={"align": "left", "bgcolor": "white"},
        margin={"l": 80, "r": 30, "t": 60, "b": 20},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.14, "yanchor": "top"},
        xaxis=views[x.name],
        yaxis=views[y.name],
        updatemenus=[
            _menu(key, place, list(views).index(shown.name), views, groups, x, y)
            for key, place, shown in (("y", 0.0, y), ("x", 0.5, x))
        ],
    )
    plot = io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=True,
        div_id="tradeoff",
        default_height="72vh",
        config=_CONFIG,
    )
    outside = [
        point.label
        for point in markers
        if not all(
            low <= value <= high
            for value, (low, high) in (
                (point.x, sorted(views[x.name]["range"])),
                (point.y, sorted(views[y.name]["range"])),
            )
        )
    ]
    far = f" Outside the first view: {', '.join(outside)}." if outside else ""
    heading = escape(title or f"{y.name} against {x.name}")
    return _PAGE.format(title=heading, plot=plot, notes=escape(notes), hint=escape(f"{_HINT}{far}"))


def _value(point: Point, name: str, x: Axis, y: Axis) -> float | None:
    """A point's value of a metric, None where it has none that can be drawn."""
    known = {**point.extra, y.name: point.y, x.name: point.x}.get(name)
    return float(known) if known is not None and math.isfinite(known) else None


def _data(name: str, points: Sequence[Point], x: Axis, y: Axis) -> dict[str, Any]:
    """Coordinates and the text under the pointer."""
    texts = []
    for point in points:
        values = {x.name: point.x, y.name: point.y, **point.extra}
        heading = f"{name}, {point.label}" if name else point.label
        texts.append(
            "<br>".join(
                [f"<b>{escape(heading)}</b>", *(f"{escape(key)}: {value:.4f}" for key, value in values.items())]
            )
        )
    return {
        "x": [_value(point, x.name, x, y) for point in points],
        "y": [_value(point, y.name, x, y) for point in points],
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _view(
    axis: Axis, curves: Mapping[str, Sequence[Point]], markers: Sequence[Point], x: Axis, y: Axis
) -> dict[str, Any]:
    """How an axis shows a metric: its title, and its range with the better at the far end."""
    on_curves = [_value(point, axis.name, x, y) for points in curves.values() for point in points]
    single = [_value(point, axis.name, x, y) for point in markers]
    low, high = axis_range([v for v in on_curves if v is not None], [v for v in single if v is not None])
    span = [low, high] if axis.higher_is_better else [high, low]
    return {"title": {"text": escape(axis_title(axis))}, "range": span, "autorange": False}


def _menu(
    key: str,
    place: float,
    active: int,
    views: Mapping[str, Mapping[str, Any]],
    groups: Sequence[Sequence[Point]],
    x: Axis,
    y: Axis,
) -> dict[str, Any]:
    """A drop-down above the plot that puts another metric on one axis."""
    return {
        "type": "dropdown",
        "active": active,
        "x": place,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 4},
        "buttons": [
            {
                "label": f"{'across' if key == 'x' else 'up'}: {escape(name)}",
                "method": "update",
                "args": [
                    {key: [[_value(point, name, x, y) for point in points] for points in groups]},
                    {f"{key}axis.{field}": value for field, value in view.items() if field != "title"}
                    | {f"{key}axis.title.text": view["title"]["text"]},
                ],
            }
            for name, view in views.items()
        ],
    }
