"""What the pictures show."""

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from ctsr_lightning.evaluation.labels import control_label
from ctsr_lightning.figures.plots import (
    Axis,
    Point,
    axis_range,
    curve_colour,
    curve_looks,
    labelled_row,
    render,
    stack_rows,
    tradeoff_figure,
)

PSNR, DISTANCE = Axis("psnr_y", higher_is_better=True), Axis("distance", higher_is_better=False)
TRADE = [Point("t=0.00", 25.7, 0.306), Point("t=0.50", 26.3, 0.310), Point("t=1.00", 26.7, 0.322)]
BLEND = [Point("α=0.00", 25.1, 0.290), Point("α=0.50", 26.1, 0.306), Point("α=1.00", 26.4, 0.340)]
TEACHERS = [Point("T_r", 25.1, 0.290), Point("T_f", 26.4, 0.340)]
CURVE = [Point("t=0.00", 24.0, 0.20), Point("t=0.50", 25.0, 0.24), Point("t=1.00", 25.6, 0.30)]


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def labels(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if text.get_text()]


def test_better_is_up_and_to_the_right() -> None:
    axes = tradeoff_figure({"CTSR": CURVE}, [Point("bicubic", 25.2, 0.4)], PSNR, DISTANCE).axes[0]
    assert not axes.xaxis_inverted()
    assert axes.yaxis_inverted()
    assert "lower is better" in axes.get_ylabel()
    swapped = tradeoff_figure({"CTSR": CURVE}, [], DISTANCE, PSNR).axes[0]
    assert swapped.xaxis_inverted()
    assert not swapped.yaxis_inverted()


def test_every_point_is_drawn_and_named() -> None:
    axes = tradeoff_figure({"CTSR": CURVE}, [Point("bicubic", 25.2, 0.4)], PSNR, DISTANCE, "title").axes[0]
    assert {"t=0.00", "t=0.50", "t=1.00"} <= {text.get_text() for text in axes.texts}
    assert legend(axes) == ["CTSR", "bicubic"]
    assert axes.lines[0].get_xydata().tolist() == [[p.x, p.y] for p in CURVE]


def test_a_method_far_away_does_not_squeeze_the_curves() -> None:
    marks = [Point("bicubic", 27.1, 0.45), *TEACHERS]
    axes = tradeoff_figure({"CTSR": TRADE, "blend": BLEND}, marks, PSNR, DISTANCE).axes[0]
    assert legend(axes) == ["CTSR", "blend", "bicubic (off the scale)", "T_r", "T_f"]
    bottom, top = axes.get_ylim()
    assert 0.34 < bottom < 0.36
    assert 0.28 < top < 0.29
    drawn = axes.lines[2].get_xydata()[0]
    assert drawn[0] == 27.1  # true where it can be
    assert 0.34 < drawn[1] < bottom  # at the border where it cannot
    assert "bicubic: 27.1, 0.45" in [text.get_text() for text in labels(axes)]
    assert [line.get_xydata()[0].tolist() for line in axes.lines[3:]] == [[25.1, 0.290], [26.4, 0.340]]


def test_labels_cover_neither_each_other_nor_the_points() -> None:
    curves = {"CTSR": TRADE, "blend": BLEND}
    figure = tradeoff_figure(curves, [Point("bicubic", 27.1, 0.45), *TEACHERS], PSNR, DISTANCE)
    render(figure)
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in labels(axes)]
    assert len(boxes) == 7
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        for line in axes.lines:
            assert not any(box.contains(*pixel) for pixel in axes.transData.transform(line.get_xydata()))
    assert not figure.legends[0].get_window_extent().overlaps(axes.bbox)


def test_ends_keep_their_labels_where_there_is_no_room() -> None:
    dense = [Point(f"t={i / 100:.2f}", 25 + i / 100, 0.3 + (i / 100) ** 2 / 10) for i in range(101)]
    names = [text.get_text() for text in labels(tradeoff_figure({"CTSR": dense}, [], PSNR, DISTANCE).axes[0])]
    assert {"t=0.00", "t=1.00"} <= set(names)
    assert 4 < len(names) < 50


@pytest.mark.parametrize(
    ("curves", "markers", "expected"),
    [
        ([0.0, 1.0], [2.0, -1.0], (-1.36, 2.36)),  # within reach
        ([0.0, 1.0], [9.0, 0.5], (-0.12, 1.12)),  # one far away
        ([0.0, 0.001], [9.0], (-1.08, 10.08)),  # next to nothing is no scale
        ([], [0.0, 9.0], (-1.08, 10.08)),
        ([5.0], [], (4.95, 5.05)),
    ],
)
def test_axis_range(curves: list[float], markers: list[float], expected: tuple[float, float]) -> None:
    assert axis_range(curves, markers) == pytest.approx(expected)


def test_points_that_are_not_finite_are_named() -> None:
    broken = Point("t=0.75", float("nan"), 0.3)
    axes = tradeoff_figure({"CTSR": [*CURVE, broken]}, [broken._replace(label="bicubic")], PSNR, DISTANCE).axes[0]
    assert legend(axes) == ["CTSR (1 of 4 not finite)", "bicubic (not finite)"]
    assert axes.lines[0].get_xydata().tolist() == [[p.x, p.y] for p in CURVE]
    assert render(tradeoff_figure({"CTSR": [broken]}, [], PSNR, DISTANCE)).shape[0] == 3


def test_blends_of_own_ends_are_dashed_in_the_colour_of_their_curve() -> None:
    curves = {
        "CTSR": TRADE,
        "blend": BLEND,
        "CTSR's own ends": [TRADE[0], TRADE[-1]],
        "B": CURVE,
        "B's own ends": CURVE,
    }
    looks = curve_looks(curves)
    assert {name for name, (_, dashed) in looks.items() if dashed} == {"CTSR's own ends", "B's own ends"}
    for name in ("CTSR", "B"):
        assert looks[name][0] == looks[f"{name}'s own ends"][0]
    assert [looks[name][0] for name in ("CTSR", "blend", "B")] == [curve_colour(index) for index in range(3)]
    axes = tradeoff_figure(curves, [], PSNR, DISTANCE).axes[0]
    assert legend(axes) == list(curves)
    for line, (colour, dashed) in zip(axes.lines, looks.values(), strict=True):
        assert (line.get_color(), line.get_linestyle()) == (colour, "--" if dashed else "-")
    assert len({curve_colour(index) for index in range(8)}) == 8


def test_many_curves_of_long_names_have_their_own_colours_and_a_whole_legend() -> None:
    names = [f"a method of a rather long name, {number}" for number in range(12)]
    figure = tradeoff_figure(dict.fromkeys(names, CURVE), TEACHERS, PSNR, DISTANCE)
    assert len({line.get_color() for line in figure.axes[0].lines[:12]}) == 12
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= 0
    assert len(figure.legends) == 1


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tradeoff_figure({"CTSR": []}, [], PSNR, DISTANCE)


def test_render_gives_an_image() -> None:
    image = render(tradeoff_figure({"CTSR": CURVE}, [], PSNR, DISTANCE))
    assert image.shape[0] == 3
    assert 0.0 <= image.min() < 0.5 < image.max() <= 1.0


def test_labels_stand_above_unchanged_images() -> None:
    images = {"lq": torch.rand(3, 40, 60), "a rather long name": torch.rand(3, 40, 60)}
    row = labelled_row(images, gap=4)
    assert row.shape[2] == 124
    strip = row.shape[1] - 40
    assert torch.equal(row[:, strip:, :60], images["lq"])
    assert torch.equal(row[:, strip:, 64:], images["a rather long name"])
    assert row[:, :strip, :60].min() < 0.5  # text
    assert row[:, :, 60:64].min() == 1.0  # gap
    assert stack_rows([row, row[:, :, :60]], gap=8).shape == (3, 2 * row.shape[1] + 8, 124)


@pytest.mark.parametrize(("control", "label"), [(0, "t=0.00"), (0.25, "t=0.25"), (1.0, "t=1.00"), (0.125, "t=0.125")])
def test_control_labels(control: float, label: str) -> None:
    assert control_label(control) == label
