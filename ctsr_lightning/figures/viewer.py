"""A restoration beside its input as a web page: a handle between them, a slider of t, zoom; it loads nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

POLICY: Final = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)
"""What browsers let a page load: what is in it, and from where its script may fetch."""


def viewer_page(
    title: str,
    data: Mapping[str, Any],
    record: str = "",
    above: str = "",
    below: str = "",
    style: str = "",
    script: str = "",
    connect: str = "'none'",
) -> str:
    """One HTML page with everything in it.

    Args:
        title: Title and heading.
        data: What the script takes: `picture`, if there is one to show at first, as from `picture`.
        record: How the pictures were made.
        above: HTML above the viewer.
        below: HTML below it.
        style: Further rules of CSS.
        script: Further script, after the viewer's, whose `viewer` and `data` it sees.
        connect: Where the script may fetch from, in the words of a Content-Security-Policy.
    """
    files = {suffix: Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in _PARTS}
    return Template(files[".html"]).substitute(
        title=escape(title),
        policy=escape(POLICY.format(connect=connect)),
        record=escape(record),
        style=f"{files['.css']}{style}",
        script=f"{files['.js']}{script}",
        above=above,
        below=below,
        data=json.dumps(data).replace("<", "\\u003c"),  # no text can end the element
    )


_PARTS: Final = (".html", ".css", ".js")


def picture(size: tuple[int, int], before: bytes, restored: Mapping[float, bytes]) -> dict[str, Any]:
    """What the viewer shows, as values of JSON.

    Args:
        size: Height and width of every picture.
        before: The enlarged input as a file, PNG or JPEG.
        restored: Restorations by t, as files.

    Raises:
        ValueError: If there is no restoration.
    """
    if not restored:
        raise ValueError("Expected at least one restoration to show, found none.")
    stops = [{"t": t, "url": data_uri(restored[t])} for t in sorted(restored)]
    return {"height": size[0], "width": size[1], "before": data_uri(before), "stops": stops, "t": stops[0]["t"]}


def data_uri(file: bytes) -> str:
    """An image file as an address that holds it.

    Args:
        file: PNG or JPEG.
    """
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode('ascii')}"
