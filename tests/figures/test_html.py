"""What the web page holds, read back from it."""

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from ctsr_lightning.figures.html import tradeoff_html
from ctsr_lightning.figures.plots import Axis, Point, curve_colour

PSNR, LPIPS = Axis("psnr_y", higher_is_better=True), Axis("lpips", higher_is_better=False)
MUSIQ = Axis("musiq", higher_is_better=True)
CTSR = [
    Point("t=0.00", 25.7, 0.306, {"musiq": 65.0, "seconds": 0.12}),
    Point("t=0.50", 26.3, 0.310, {"musiq": 64.0, "seconds": 0.12}),
    Point("t=1.00", 26.7, 0.322, {"musiq": 60.0, "seconds": 0.12}),
]
BLEND = [Point("α=0.00", 25.1, 0.290, {"musiq": 66.0}), Point("α=1.00", 26.4, 0.340)]
CURVES = {"CTSR over t": CTSR, "blend": BLEND}
BICUBIC = Point("bicubic <x4>", 27.1, 0.45, {"musiq": 30.0})


class Tags(HTMLParser):
    """Tags and visible text of a page; scripts are left alone, as a browser's parser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in {"script", "style"}:
            self.text.append(data)


def read_back(page: str) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Traces, layout and configuration in the page's last call of plotly.js."""
    rest = page[page.rindex("Plotly.newPlot(") + len("Plotly.newPlot(") :]
    parts, decoder = [], json.JSONDecoder()
    for _ in range(4):
        part, end = decoder.raw_decode(rest.lstrip(" \n,"))
        rest = rest.lstrip(" \n,")[end:]
        parts.append(part)
    assert parts[0] == "tradeoff"
    return parts[1], parts[2], parts[3]


@pytest.fixture(scope="module")
def page() -> str:
    return tradeoff_html(CURVES, [BICUBIC], PSNR, LPIPS, "RealSR & more", "100 images <b>", [PSNR, LPIPS, MUSIQ])


def test_points_and_colours(page: str) -> None:
    traces, _, _ = read_back(page)
    assert [trace["name"] for trace in traces] == ["CTSR over t", "blend", "bicubic &lt;x4&gt;"]
    for index, (trace, points) in enumerate(zip(traces, (CTSR, BLEND, [BICUBIC]), strict=True)):
        assert trace["x"] == [p.x for p in points]
        assert trace["y"] == [p.y for p in points]
        if index < 2:
            assert trace["line"]["color"] == curve_colour(index)
    assert traces[0]["text"] == ["t=0.00", "", "t=1.00"]


def test_blends_of_own_ends_are_dashed() -> None:
    traces, _, _ = read_back(tradeoff_html({"CTSR": CTSR, "CTSR's own ends": CTSR}, [], PSNR, LPIPS))
    assert [trace["line"]["dash"] for trace in traces] == ["solid", "dash"]
    assert traces[0]["line"]["color"] == traces[1]["line"]["color"]
    assert traces[1]["text"] == ["", "", ""]  # the ends are those of the other curve


def test_better_is_up_and_to_the_right(page: str) -> None:
    _, layout, _ = read_back(page)
    left, right = layout["xaxis"]["range"]
    bottom, top = layout["yaxis"]["range"]
    assert left < 25.1 < 26.7 < right
    assert bottom > 0.34 > 0.29 > top
    assert bottom < 0.45  # bicubic lies outside the first view, and the page says so
    assert "Outside the first view: bicubic" in "".join(Tags(page).text)
    assert layout["yaxis"]["title"]["text"] == "lpips (lower is better)"


def test_text_under_the_pointer(page: str) -> None:
    traces, _, _ = read_back(page)
    assert traces[0]["hovertext"][1] == (
        "<b>CTSR over t, t=0.50</b><br>psnr_y: 26.3000<br>lpips: 0.3100<br>musiq: 64.0000<br>seconds: 0.1200"
    )
    assert traces[2]["hovertext"][0].startswith("<b>bicubic &lt;x4&gt;</b><br>")


def test_menus_change_the_axes(page: str) -> None:
    _, layout, _ = read_back(page)
    up, across = layout["updatemenus"]
    assert [menu["buttons"][menu["active"]]["label"] for menu in (up, across)] == ["up: lpips", "across: psnr_y"]
    for menu, key in ((up, "y"), (across, "x")):
        assert [button["label"].split(": ")[1] for button in menu["buttons"]] == ["psnr_y", "lpips", "musiq"]
        for button, higher in zip(menu["buttons"], (True, False, True), strict=True):
            data, change = button["args"]
            first, last = change[f"{key}axis.range"]
            assert (first < last) is higher
            assert set(data) == {key}
    data, change = up["buttons"][2]["args"]
    assert data["y"] == [[65.0, 64.0, 60.0], [66.0, None], [30.0]]  # one point has no value
    assert change["yaxis.title.text"] == "musiq (higher is better)"


def test_the_page_needs_no_connection(page: str) -> None:
    _, _, config = read_back(page)
    for tag, attributes in Tags(page).tags:
        assert "src" not in attributes
        assert tag not in {"link", "iframe", "img", "a"}
    assert len(page) > 1_000_000  # plotly.js is inside
    assert config["showSendToCloud"] is False
    assert config["modeBarButtons"][0] == ["toImage"]  # no button that sends the data anywhere


def test_title_and_notes_are_text(page: str) -> None:
    assert "<h1>RealSR &amp; more</h1>" in page
    assert "<p>100 images &lt;b&gt;</p>" in page
    assert page.startswith("<!DOCTYPE html>")


def test_values_that_are_not_finite() -> None:
    traces, layout, _ = read_back(tradeoff_html({"CTSR": [*CTSR, Point("t=2", float("nan"), 0.3)]}, [], PSNR, LPIPS))
    assert traces[0]["x"] == [25.7, 26.3, 26.7, None]
    assert layout["xaxis"]["range"][1] < 28


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tradeoff_html({"CTSR": []}, [], PSNR, LPIPS)
    with pytest.raises(ValueError, match="niqe"):
        tradeoff_html(CURVES, [], PSNR, LPIPS, choices=[Axis("niqe", higher_is_better=False)])
