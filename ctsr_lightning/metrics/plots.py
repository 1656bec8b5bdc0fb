"""Pictures of results: the trade-off curve and labelled rows of images. Data in, picture out; no files, no loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_CURVE_COLOURS = ("#1f5fa8", "#c2571a", "#3b8f4f", "#8a4fa3")
_MARKERS = ("s", "D", "^", "v", "P", "X")


class Point(NamedTuple):
    """One method, or one setting of a method, on the perception-distortion plane."""

    label: str
    x: float
    y: float


class Axis(NamedTuple):
    """A metric that an axis shows."""

    name: str
    higher_is_better: bool


def control_label(control: float) -> str:
    """How a control value is written everywhere: `t=0.25`, with more digits only where two lose some."""
    text = f"{control:.2f}"
    return f"t={text if float(text) == control else format(control, 'g')}"


def tradeoff_figure(
    curves: Mapping[str, Sequence[Point]],
    markers: Sequence[Point],
    x: Axis,
    y: Axis,
    title: str = "",
) -> Figure:
    """Draw the perception-distortion plane, both axes turned so that better is up and to the right.

    Args:
        curves: Curves by name, each a series of points in the order of their parameter.
        markers: Single methods: bicubic, teachers.
        x: The horizontal metric, usually PSNR-Y.
        y: The vertical metric, usually a perceptual distance.
        title: Title above the plot.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not any(curves.values()) and not markers:
        raise ValueError("Expected at least one curve or marker to draw, found none.")
    figure = Figure(figsize=(7.2, 5.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        colour = _CURVE_COLOURS[index % len(_CURVE_COLOURS)]
        axes.plot([p.x for p in points], [p.y for p in points], "o-", color=colour, label=name, zorder=3, markersize=6)
        for point in points:  # on the side of the better, where a frontier has nothing
            axes.annotate(
                point.label,
                (point.x, point.y),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=9,
                color=colour,
                zorder=4,
            )
    for index, point in enumerate(markers):
        shape = _MARKERS[index % len(_MARKERS)]
        grey = str(0.15 + 0.45 * index / max(len(markers), 1))
        axes.plot(point.x, point.y, shape, color=grey, label=point.label, markersize=8, linestyle="none", zorder=2)
    axes.margins(0.12)
    for axis, setting in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_inverted(not setting.higher_is_better)
        axis.set_label_text(f"{setting.name} ({'higher' if setting.higher_is_better else 'lower'} is better)")
    axes.annotate(
        "better",
        xy=(0.985, 0.985),
        xytext=(0.90, 0.90),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=9,
        color="0.45",
        arrowprops={"arrowstyle": "->", "color": "0.6"},
    )
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="best")
    if title:
        axes.set_title(title, fontsize=11)
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
