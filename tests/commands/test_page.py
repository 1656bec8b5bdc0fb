"""`ctsr upscale --page`: one file that shows a photo's restorations, without a network."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.figures.viewer import picture, viewer_page
from helpers.browser import chromium, watched


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def photo(path: str, size: tuple[int, int] = (24, 16), **options: object) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def shown(path: str) -> dict[str, Any]:
    """What a page's viewer shows."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', Path(path).read_text())
    assert found is not None
    return json.loads(found.group(1))["picture"]


def decoded(url: str) -> np.ndarray:
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))))


def upscale(*words: str) -> None:
    main(["upscale", *words, "--device", "cpu"])


def test_a_page_holds_the_results_of_its_values(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a & <b>.png")
    upscale("a & <b>.png", "out", "--checkpoint", stage2, "--control", "0.25,1", "--page")
    assert "its page is 'a & <b>.html', 0." in capsys.readouterr().err
    found = shown("out/a & <b>.html")
    assert (found["width"], found["height"], [stop["t"] for stop in found["stops"]]) == (96, 64, [0.25, 1.0])
    for stop, name in zip(found["stops"], ("a & <b>_t0.25.png", "a & <b>_t1.00.png"), strict=True):
        assert (decoded(stop["url"]) == np.asarray(Image.open(f"out/{name}"))).all()
    assert "<title>a &amp; &lt;b&gt;.png</title>" in Path("out/a & <b>.html").read_text()


def test_one_value_gives_a_page_of_three_and_stage_1_one_of_one(stage2: str, stage1: str) -> None:
    photo("a.png")
    upscale("a.png", "out", "--checkpoint", stage2, "--control", "0.5", "--page")
    found = shown("out/a.html")
    assert [stop["t"] for stop in found["stops"]] == [0.0, 0.5, 1.0]
    assert (decoded(found["stops"][1]["url"]) == np.asarray(Image.open("out/a.png"))).all()
    upscale("a.png", "one/b.png", "--checkpoint", stage1, "--page")
    assert [stop["t"] for stop in shown("one/b.html")["stops"]] == [0.0]


def test_a_page_under_a_map_and_in_another_size(stage2: str) -> None:
    photo("a.png")
    words = ("a.png", "out", "--checkpoint", stage2, "--control-map", "auto", "--save-map", "--width", "50", "--page")
    upscale(*words)
    Path("out/a_map.png").unlink()
    for _ in range(2):
        found = shown("out/a.html")
        assert (found["width"], found["height"], [stop["t"] for stop in found["stops"]]) == (50, 33, [0.0])
        assert (decoded(found["stops"][0]["url"]) == np.asarray(Image.open("out/a.png"))).all()
        assert "slider goes" not in Path("out/a.html").read_text()
        Path("out/a.html").unlink()
        upscale(*words)  # the result is there, its page is not
    assert not Path("out/a_map.png").exists()


def test_pages_are_made_once_and_never_replace_others(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo("a.png")
    upscale("a.png", "out", "--checkpoint", stage2)
    upscale("a.png", "out", "--checkpoint", stage2, "--page")  # the result is there, its page is not
    first = Path("out/a.html").stat().st_mtime_ns
    upscale("a.png", "out", "--checkpoint", stage2, "--page")
    assert Path("out/a.html").stat().st_mtime_ns == first
    assert "1 already there" in capsys.readouterr().out
    Path("out/a.html").write_text("mine")
    with pytest.raises(SystemExit):
        upscale("a.png", "out", "--checkpoint", stage2, "--page")
    assert "out/a.html' is there already" in capsys.readouterr().err.replace("\n", "")
    assert Path("out/a.html").read_text() == "mine"
    upscale("a.png", "out", "--checkpoint", stage2, "--page", "--overwrite")
    assert shown("out/a.html")


def test_grey_and_transparent_photos(stage2: str) -> None:
    Image.fromarray(np.arange(0, 192, dtype=np.uint8).reshape(12, 16)).save("grey.png")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    pixels[:4, :, 3] = 0
    pixels[4:, :, 3] = 255
    Image.fromarray(pixels).save("clear.png")
    upscale("grey.png", "clear.png", "out", "--checkpoint", stage2, "--page")
    grey, clear = (decoded(shown(f"out/{name}.html")["stops"][0]["url"]) for name in ("grey", "clear"))
    assert (grey == grey[..., :1]).all()
    assert (clear[:8] == 255).all()
    assert (clear[24:] != 255).any()


def test_no_text_ends_the_data_early() -> None:
    page = viewer_page("x", {"note": "</script><b>"})
    assert page.count("</script>") == 2
    with pytest.raises(ValueError, match="at least one restoration"):
        picture((1, 1), b"", {})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


WIDE, NARROW = {"width": 1100, "height": 800}, {"width": 400, "height": 800}


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("window", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_in_a_browser(browser: Any, stage2: str, tmp_path: Path, window: dict[str, int]) -> None:
    photo("a.png")
    upscale("a.png", "out", "--checkpoint", stage2, "--page")
    context = browser.new_context(viewport=window, offline=True)
    page = context.new_page()
    requests, errors = watched(page)
    page.goto((tmp_path / "out" / "a.html").as_uri())
    handle, slider = page.get_by_role("slider", name="Divider"), page.locator("#t")
    handle.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = page.locator(".stage").bounding_box()
    before = page.screenshot(clip=box)

    # The divider, by mouse and keys.
    grip = handle.bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], grip["y"] + 20)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25"
    assert page.screenshot(clip=box) != before
    handle.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "27"
    handle.press("Home")
    assert handle.get_attribute("aria-valuenow") == "0"

    # t, from exact to blended to exact; with the divider at the left the restoration alone is seen.
    def colour() -> list[float]:
        """Mean colour of the stage's middle, away from handle and tags."""
        clip = {"x": box["x"] + 60, "y": box["y"] + 40, "width": box["width"] - 120, "height": box["height"] - 80}
        return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"), float)

    found = {}
    for key, t in (("Home", 0.0), ("End", 1.0)):
        slider.press(key)
        found[t] = colour()
        assert page.locator(".status").inner_text() == f"Restored at t = {t:g}."
    slider.evaluate("x => { x.value = 0.25; x.dispatchEvent(new Event('input')); }")
    assert "blend of the restorations at t = 0 and 0.5" in page.locator(".status").inner_text()
    assert page.locator(".value").inner_text() == "t = 0.25"
    quarter = colour()
    slider.evaluate("x => { x.value = 0.5; x.dispatchEvent(new Event('input')); }")
    found[0.5] = colour()
    assert abs(found[0.0] - found[1.0]).mean() > 1.0
    assert abs(quarter - (found[0.0] + found[0.5]) / 2).max() <= 1.5

    # Zoom by buttons and keys, panning by both.
    assert page.locator(".percent").inner_text() != "100 %"
    page.get_by_role("button", name="100 %").click()
    assert page.locator(".percent").inner_text() == "100 %"
    stage = page.locator(".stage")
    page.get_by_role("button", name="Fit").click()
    stage.press("+")
    place = page.locator(".sheet").get_attribute("style")
    stage.press("ArrowRight")
    assert page.locator(".sheet").get_attribute("style") != place
    place = page.locator(".sheet").get_attribute("style")
    page.mouse.move(box["x"] + box["width"] - 40, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 70)
    page.mouse.up()
    assert page.locator(".sheet").get_attribute("style") != place
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]
    assert not errors
    context.close()


@pytest.mark.slow
@pytest.mark.processes
def test_the_divider_follows_a_finger_and_one_restoration_has_no_slider(
    browser: Any, stage1: str, tmp_path: Path
) -> None:
    photo("a.png")
    upscale("a.png", "out", "--checkpoint", stage1, "--page")
    context = browser.new_context(viewport=NARROW, has_touch=True, is_mobile=True, color_scheme="dark")
    page = context.new_page()
    page.goto((tmp_path / "out" / "a.html").as_uri())
    handle = page.get_by_role("slider", name="Divider")
    handle.wait_for()
    assert page.locator("#t").is_hidden()
    box, grip = page.locator(".stage").bounding_box(), handle.bounding_box()
    session = context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    y = box["y"] + box["height"] / 2
    touch("touchStart", (grip["x"] + 22, y))
    touch("touchMove", (box["x"] + 0.6 * box["width"], y))
    touch("touchMove", (box["x"] + 0.75 * box["width"], y))
    touch("touchEnd")
    assert abs(int(handle.get_attribute("aria-valuenow")) - 75) <= 1
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 28)"
    context.close()
