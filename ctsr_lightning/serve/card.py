"""The model's card, and photographs to try it on."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

from PIL import Image

from ctsr_lightning.images import read_image, resize_bicubic, to_uint8
from ctsr_lightning.images.samples import val_samples
from ctsr_lightning.inference.restorer import Restorer

CARD = "README.md"


def card_html(restorer: Restorer) -> str:
    """What is known about a model, as HTML: its card, the README.md beside its weights, and a line about it.

    Args:
        restorer: The model.
    """
    from markdown_it import MarkdownIt  # comes with rich

    kinds = {"none": "no slider", "number": "one t for the whole picture", "map": "t, also painted"}
    kind = kinds[restorer.model.control_kind]
    line = f"{restorer.model.method}, enlarges by {restorer.scale}, {kind}, computes on {restorer.device}."
    folders = [] if restorer.source is None else list(restorer.source.resolve().parents)[:2]  # nano's is one up
    found = next((folder / CARD for folder in folders if (folder / CARD).is_file()), None)
    text = "" if found is None else found.read_text(encoding="utf-8", errors="replace")
    if text.startswith("---\n"):  # a header for the hub
        text = text.partition("\n---\n")[2]
    return f"<p>{escape(line)}</p>\n{MarkdownIt('commonmark', {'html': False}).enable('table').render(text)}"


def examples() -> dict[str, bytes]:
    """Files to try by name: the held-out sample photos, made small and compressed; none without scikit-image."""
    try:
        paths = val_samples()
    except FileNotFoundError:
        return {}
    return {f"{path.stem}.jpg": degraded(path) for path in paths}


def degraded(path: Path, side: int = 128) -> bytes:
    """A photo made small, and compressed as photos on the web are, as a JPEG file.

    Args:
        path: The photo.
        side: Its longer side then, in pixels.
    """
    image = read_image(path)
    factor = side / max(image.shape[-2:])
    small = resize_bicubic(image[None], [round(factor * length) for length in image.shape[-2:]])[0]
    file = io.BytesIO()
    Image.fromarray(to_uint8(small)).save(file, "JPEG", quality=80)
    return file.getvalue()
