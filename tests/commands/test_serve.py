"""`ctsr serve` in a real browser: photos in, exact restorations out, nothing from elsewhere and nothing left behind."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.images import read_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.training import INTERRUPTED
from helpers.browser import chromium, watched

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.processes]


def photo(path: Path, size: tuple[int, int] = (40, 24), seed: int = 0) -> Path:
    """Write a JPEG photo with EXIF."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[271] = "a maker"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


@contextmanager
def served(checkpoint: str, temporary: Path) -> Iterator[str]:
    """Address of `ctsr serve` with a model and a folder for temporary files, which Ctrl-C or a signal ends."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("needs Gradio: pip install 'ctsr-lightning[serve]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--checkpoint", checkpoint, "--port", str(port), "--device", "cpu", "--tile", "16"]
    limits = ["--max-mb", "0.1", "--max-pixels", "2000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "ctsr_lightning.cli", "serve", *words, *limits]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            assert said == f"Serving at http://127.0.0.1:{port}/; Ctrl-C ends it.\n"
            yield f"http://127.0.0.1:{port}/"
        finally:
            deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background of a shell, as its children
            process.send_signal(signal.SIGTERM if deaf else signal.SIGINT)
            try:
                assert process.wait(60) == INTERRUPTED
            finally:
                process.kill()
    assert not [*temporary.iterdir()]


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(stage2: str, temporary: Path) -> Iterator[str]:
    with served(stage2, temporary) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(server: str, browser: Any) -> Iterator[Any]:
    """The page in a fresh session; whatever it requests elsewhere, or complains about, fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    requests, errors = watched(opened)
    opened.goto(server)
    yield opened
    opened.goto("about:blank")
    context.close()
    assert not [url for url in requests if not url.startswith((server, "blob:", "data:", "about:"))]
    assert not [text for text in errors if "status of 4" not in text]


def exact(page: Any, t: str = "") -> str:
    """Wait for an exact restoration and return what the page says of it."""
    page.locator(".status", has_text=re.compile(f"^Exact restoration at t = {t}")).wait_for()
    return page.locator(".status").inner_text()


def pixels(page: Any, which: str) -> np.ndarray:
    """Pixels of a picture that the page shows, by the name of a variable of its script."""
    size = page.evaluate("[viewer.width, viewer.height]")
    code = f"""() => {{
      const canvas = new OffscreenCanvas({size[0]}, {size[1]}), pen = canvas.getContext("2d");
      pen.drawImage({which}, 0, 0);
      return Array.from(pen.getImageData(0, 0, {size[0]}, {size[1]}).data);
    }}"""
    return np.array(page.evaluate(code), np.uint8).reshape(size[1], size[0], 4)[..., :3]


def downloaded(page: Any, name: str) -> tuple[str, bytes]:
    """Name and bytes of a download."""
    with page.expect_download() as found:
        page.get_by_role("button", name=name).click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def test_a_photo_from_drop_to_download(
    page: Any, server: str, stage2: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photo(tmp_path / "my photo.jpg")
    page.set_input_files("#file", source)
    assert re.search(r"at t = 0, decoded in [\d.]+ m?s\.$", exact(page))
    for t, number in ((0.0, 0), (1.0, 1)):
        expected = np.asarray(Restorer.from_pretrained(stage2, "cpu", tile=16)(read_image(source), t).permute(1, 2, 0))
        assert abs(pixels(page, f"viewer.stops[{number}].image") / 255.0 - expected).max() <= 0.5 / 255 + 1e-6

    # The slider: at first a blend of both ends, then the exact picture.
    slider = page.locator("#t")
    page.evaluate("() => { window.exactly = viewer.resting; viewer.resting = () => {}; }")
    slider.evaluate("x => { x.value = 0.4; x.dispatchEvent(new Event('input')); }")
    assert "blend" in page.locator(".status").inner_text()
    assert page.evaluate("viewer.stops.map(x => Number(x.image.style.opacity))") == [1.0, 0.4]
    page.evaluate("() => { viewer.resting = window.exactly; viewer.resting(); }")
    exact(page, "0.4")
    main(["upscale", str(source), str(tmp_path / "out"), "--checkpoint", stage2, "--device", "cpu", "--tile", "16",
          "--control", "0.4"])  # fmt: skip
    assert (pixels(page, "viewer.exact") == np.asarray(Image.open(tmp_path / "out" / "my photo.png"))).all()

    # Downloads are the files that `ctsr upscale` writes, to the byte.
    main(["upscale", str(source), str(tmp_path / "out"), "--checkpoint", stage2, "--device", "cpu", "--tile", "16",
          "--control", "0.4", "--format", "jpg"])  # fmt: skip
    for button, suffix in (("Download PNG", "png"), ("Download JPEG", "jpg")):
        name, data = downloaded(page, button)
        assert name == f"my photo.{suffix}"
        assert data == (tmp_path / "out" / name).read_bytes()
    assert Image.open(io.BytesIO(data)).getexif()[271] == "a maker"

    # The colours' correction, and keys alone.
    before = pixels(page, "viewer.exact")
    page.evaluate("() => { viewer.stops[0].image.earlier = true; }")
    page.locator("#color").select_option("adain")
    page.wait_for_function("() => !viewer.stops[0].image.earlier && viewer.exact")
    exact(page, "0.4")
    assert (pixels(page, "viewer.exact") != before).any()
    slider.press("End")
    exact(page, "1")
    capsys.readouterr()


def test_a_painted_map_changes_what_is_painted_alone(page: Any, tmp_path: Path) -> None:
    page.set_input_files("#file", photo(tmp_path / "a.jpg"))
    exact(page)
    realistic, faithful = (pixels(page, f"viewer.stops[{i}].image").astype(float) for i in (0, 1))
    page.get_by_role("button", name="Paint faithful").click()
    page.locator("#brush").evaluate("x => { x.value = 40; }")
    box = page.locator(".stage").bounding_box()
    for row in np.linspace(0.02, 0.98, 9):
        page.mouse.move(box["x"] + 4, box["y"] + row * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.22 * box["width"], box["y"] + row * box["height"], steps=3)
        page.mouse.up()
    page.locator(".status", has_text="and the painted map").wait_for()
    page.wait_for_timeout(1000)
    exact(page)
    found, width = pixels(page, "viewer.exact").astype(float), realistic.shape[1]
    left, right = slice(0, width // 4), slice(3 * width // 4, width)
    assert abs(found[:, right] - realistic[:, right]).max() <= 1.0
    assert abs(found[:, left] - faithful[:, left]).mean() < 0.1 * abs(realistic[:, left] - faithful[:, left]).mean()

    # While t moves, the browser keeps what is painted, without the server.
    page.evaluate("() => { window.exactly = viewer.resting; viewer.resting = () => {}; }")
    page.locator("#seen").uncheck()
    page.get_by_role("button", name="Move").click()
    page.evaluate("viewer.divideAt(0)")
    clip = {"x": box["x"] + 10, "y": box["y"] + 40, "width": box["width"] - 20, "height": box["height"] - 80}
    seen = []
    for t in (0.5, 0.1):
        page.locator("#t").evaluate("(x, t) => { x.value = t; x.dispatchEvent(new Event('input')); }", t)
        assert page.evaluate("viewer.exact") is None
        seen.append(np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(float))
    change = abs(seen[0] - seen[1]).mean(axis=(0, 2))
    assert change[: len(change) // 5].max() <= 1.0 < change[len(change) // 2 :].mean()
    page.evaluate("() => { viewer.resting = window.exactly; viewer.divideAt(0.5); }")
    page.locator("#t").press("Home")

    # By keys: the ring moves, the space bar paints; the eraser and the button take all of it back.
    page.get_by_role("button", name="Clear the map").click()
    page.locator(".status", has_text="Exact restoration at t = 0, dec").wait_for()
    page.get_by_role("button", name="Paint faithful").click()
    page.locator(".stage").press("ArrowRight")
    page.locator(".stage").press("Space")
    page.locator(".status", has_text="and the painted map").wait_for()
    assert (pixels(page, "viewer.exact") != realistic).any()

    # The automatic map: every place has its own t, and the slider moves none of them.
    page.get_by_role("button", name="Clear the map").click()
    page.locator(".status", has_text="Exact restoration at t = 0, dec").wait_for()
    page.get_by_role("button", name="Automatic map").click()
    page.locator(".status", has_text="and the painted map").wait_for()
    found = pixels(page, "viewer.exact").astype(float)
    assert (found != realistic).any()
    assert (found != faithful).any()
    page.locator("#t").press("End")
    page.locator(".status", has_text="t = 1 and the painted map").wait_for()
    assert abs(pixels(page, "viewer.exact") - found).max() <= 1.0


def test_what_is_wrong_with_a_file_is_a_sentence(page: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image at all")
    page.set_input_files("#file", tmp_path / "bad.png")
    alert = page.get_by_role("alert")
    alert.filter(has_text="Cannot read 'bad.png': it is no image, or damaged. Convert or remove it.").wait_for()
    (tmp_path / "long.png").write_bytes(b"x" * 200_000)
    page.set_input_files("#file", tmp_path / "long.png")
    alert.filter(has_text="'long.png' has 0.2 MB. Up to 0.1 are taken here.").wait_for()
    page.set_input_files("#file", photo(tmp_path / "large.jpg", (80, 48)))
    alert.filter(has_text="'large.jpg' has 80 × 48 pixels, 0.0 million. Up to 0.002 million").wait_for()
    page.get_by_role("button", name="Take all of it, smaller").click()
    exact(page)
    assert alert.is_hidden()
    assert "it was made smaller, 57 × 34 of its 80 × 48 pixels" in page.locator("#notes").inner_text()
    page.set_input_files("#file", photo(tmp_path / "a.jpg"))  # the next one is fine
    exact(page)


def test_two_people_do_not_see_each_other_and_leaving_frees(browser: Any, server: str, tmp_path: Path) -> None:
    keys, contexts = [], [browser.new_context() for _ in range(2)]
    for number, context in enumerate(contexts):
        opened = context.new_page()
        opened.goto(server)
        assert opened.locator("#viewer").is_hidden()
        opened.set_input_files("#file", photo(tmp_path / f"{number}.jpg", seed=number))
        exact(opened)
        keys.append(opened.evaluate("photo.id"))
    pages = [context.pages[0] for context in contexts]
    assert len(set(keys)) == 2
    assert all(len(key) >= 43 for key in keys)
    assert (pixels(pages[0], "viewer.before") != pixels(pages[1], "viewer.before")).any()
    paths = [f"{server}photos/{key}/input" for key in keys]
    assert [pages[1].request.get(path).status for path in paths] == [200, 200]
    pages[0].goto("about:blank")
    pages[1].wait_for_timeout(1000)
    assert [pages[1].request.get(path).status for path in paths] == [410, 200]
    for context in contexts:
        context.close()


def test_nothing_stays_on_disk(page: Any, server: str, temporary: Path, tmp_path: Path) -> None:
    page.set_input_files("#file", photo(tmp_path / "a.jpg"))
    exact(page)
    downloaded(page, "Download JPEG")
    assert [*temporary.iterdir()]  # folders of Gradio's
    assert not [path for path in temporary.rglob("*") if path.is_file()]


def test_other_routes_are_closed_and_limits_hold_without_the_page(page: Any, server: str) -> None:
    url = server
    upload = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": b"x"}}
    assert page.request.post(f"{url}gradio_api/upload", multipart=upload).status == 404
    for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd", "docs", "openapi.json", "static/x"):
        assert page.request.get(f"{url}{path}").status == 404
    assert page.request.get(url, headers={"Host": "evil.example"}).status == 400
    long = page.request.post(f"{url}photos?name=a.png", data=b"x" * 200_000)
    assert (long.status, long.json()["error"][:38]) == (413, "Expected a file of at most 0.1 MB, fou")
    gone = page.request.post(f"{url}photos/unknown/image?t=0")
    assert (gone.status, gone.json()["error"]) == (410, "This photo is no longer held here. Drop it again.")
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


def test_a_narrow_window_in_the_dark(browser: Any, server: str, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(server)
    page.set_input_files("#file", photo(tmp_path / "a.jpg"))
    exact(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ink, back = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (ink, back) == ("rgb(232, 234, 237)", "rgb(22, 25, 28)")
    context.close()


def test_a_model_without_a_slider(browser: Any, stage1: str, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    with served(stage1, tmp_path / "temporary") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.set_input_files("#file", photo(tmp_path / "a.jpg"))
        exact(page)
        assert page.locator("#t").is_hidden()
        assert page.locator("#brushes").is_hidden()
        assert "no slider" in page.locator("details").text_content()
        assert downloaded(page, "Download PNG")[0] == "a.png"
        context.close()
