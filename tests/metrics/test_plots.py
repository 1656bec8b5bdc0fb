"""What the pictures show."""

import pytest
import torch

from ctsr_lightning.metrics.plots import (
    Axis,
    Point,
    control_label,
    labelled_row,
    render,
    stack_rows,
    tradeoff_figure,
)

PSNR, DISTANCE = Axis("psnr_y", higher_is_better=True), Axis("distance", higher_is_better=False)
CURVE = [Point("t=0.00", 24.0, 0.20), Point("t=0.50", 25.0, 0.24), Point("t=1.00", 25.6, 0.30)]


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
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["CTSR", "bicubic"]
    assert axes.lines[0].get_xydata().tolist() == [[p.x, p.y] for p in CURVE]


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
