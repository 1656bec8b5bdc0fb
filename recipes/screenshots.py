"""Screenshots of `ctsr serve` for the documentation, taken in a headless Chromium."""

# Annotations are not postponed here: the parser needs them as types.
import shutil
import socket
from pathlib import Path
from typing import Any, Final

from ctsr_lightning.commands.options import load_restorer
from ctsr_lightning.commands.serve import recorder

WINDOWS: Final = {"serve": (1000, 800, "light"), "serve_narrow": (400, 800, "dark")}
"""Name, width, height and colours of the windows."""


def screenshots(output: str | Path = "docs", checkpoint: str | Path | None = None, browser: str | None = None) -> int:
    """Take the documentation's screenshots: serve.png of a wide window and serve_narrow.png of a narrow, dark one.

    Example:
        python -m recipes screenshots

    Args:
        output: Folder for the pictures.
        checkpoint: The model; by default nano.
        browser: Chromium or Chrome; by default the one that is installed.

    Returns:
        0.

    Raises:
        FileNotFoundError: If there is no browser.
        ImportError: If Gradio or Playwright is not installed.
    """
    from ctsr_lightning.serve.running import serving
    from ctsr_lightning.serve.studio import Studio

    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ImportError("Expected Playwright, found none. Run `pip install 'ctsr-lightning[dev]'`.") from error
    names = [browser] if browser else ["chromium", "chromium-browser", "google-chrome"]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise FileNotFoundError(f"Expected a browser, one of {', '.join(names)}, found none. Install chromium.")
    restorer = load_restorer(checkpoint, tile=None, device="auto", precision="float32")
    studio = Studio(restorer, recorder(checkpoint, "float32", None), max_bytes=50_000_000, max_pixels=1_000_000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with serving(studio, "CTSR: nano", "127.0.0.1", port) as url, sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, (width, height, scheme) in WINDOWS.items():
            page = opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(600_000)
            page.goto(url)
            take(page, folder / f"{name}.png")
            page.close()
        opened.close()
    return 0


def take(page: Any, path: Path) -> None:
    """Restore an example, paint on it where the model allows it, and take the picture.

    Args:
        page: The page, in Playwright.
        path: The file to write.
    """
    page.locator("[data-example]").first.click()
    page.locator(".status", has_text="Exact").wait_for()
    if page.locator("#brushes").is_visible():
        page.get_by_role("button", name="Paint faithful").click()
        box = page.locator(".stage").bounding_box()
        x, y = box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 0.2 * box["width"], y, steps=4)
        page.mouse.up()
        page.locator(".status", has_text="painted map").wait_for()
    page.get_by_role("button", name="Move").click()
    page.screenshot(path=path, full_page=True)
