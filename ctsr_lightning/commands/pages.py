"""`ctsr upscale --page`: one page for each photo, with its restorations at several t, that can be mailed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctsr_lightning.commands.jobs import Job, marks
from ctsr_lightning.commands.records import DONE, MISSING, Settings, unlike

if TYPE_CHECKING:
    from torch import Tensor

    from ctsr_lightning.inference.photos import Photo

PAGE_CONTROLS: Final = (0.0, 0.5, 1.0)
"""Values of t that a page shows where one alone, or none, is named."""
EXACT_PIXELS: Final = 1 << 19
"""Pictures up to this many pixels are PNG, larger ones JPEG of quality 92."""
SLIDER: Final = "The slider goes from realistic, with plausible detail, to faithful, with what the input supports. "
"""Its description, for pages that have one."""


def page_path(job: Job, settings: Settings) -> Path:
    """Where the page of an image goes: beside its results.

    Args:
        job: The image.
        settings: How results are made.
    """
    target = job.targets[0]
    return target.with_name(f"{target.stem.removesuffix(marks(settings.controls)[0])}.html")


def page_state(job: Job, settings: Settings) -> str:
    """`DONE` for a page that is there as it would be made now or is not wanted, `MISSING`, or how else it was made.

    Args:
        job: The image.
        settings: How results are made.
    """
    path = page_path(job, settings)
    if not settings.page:
        return DONE
    try:
        if settings.overwrite or not path.exists():
            return MISSING
        with path.open(encoding="utf-8", errors="replace") as file:
            found = re.search(r'<meta name="ctsr" content="([^"]*)"', file.read(4096))
        return unlike(unescape(found.group(1)) if found else None, page_record(job, settings))
    except OSError:  # reading the image, or writing, will tell what is wrong
        return MISSING


def page_record(job: Job, settings: Settings) -> str:
    """What a page says about how it was made.

    Args:
        job: The image.
        settings: How results are made.

    Raises:
        OSError: If the image cannot be read.
    """
    first = settings.controls[0]
    several = ",".join(map(repr, settings.controls)) if len(settings.controls) > 1 else "page"
    return settings.record(first, job).replace(f"t={first!r} ", f"t={several} ", 1)


def page_controls(settings: Settings, *, controllable: bool) -> tuple[float, ...]:
    """Values of t that a page shows, rising.

    Args:
        settings: How results are made.
        controllable: Whether the model has a slider.
    """
    several = settings.controls if len(settings.controls) > 1 else PAGE_CONTROLS
    return tuple(sorted(several)) if controllable else (0.0,)


def write_page(
    path: Path, job: Job, settings: Settings, photo: Photo, enlarged: Tensor, restored: Mapping[float, Tensor]
) -> None:
    """Write the page of an image.

    Args:
        path: The file to write.
        job: The image.
        settings: How results are made.
        photo: The image, whose transparency is put over white.
        enlarged: The input enlarged, RGB in [0, 1], shape (3, H, W).
        restored: Restorations of that shape by t.
    """
    from ctsr_lightning.figures.viewer import picture, viewer_page
    from ctsr_lightning.images import encode_image, over_white

    height, width = enlarged.shape[-2:]

    def file(image: Tensor) -> bytes:
        result = photo.restored(image)
        colours = result.colours if result.alpha is None else over_white(result.colours, result.alpha)
        return encode_image(colours, "png" if height * width <= EXACT_PIXELS else "jpeg", result.metadata.profile)

    files = {t: file(image) for t, image in restored.items()}
    shown = picture((height, width), file(enlarged), files)
    notes = (
        f"{job.source.name}, {photo.colours.shape[-1]} × {photo.colours.shape[-2]} pixels, restored to {width} × "
        f"{height}. Left of the divider the input, enlarged by bicubic interpolation; right of it the restoration. "
        f"{SLIDER if len(restored) > 1 else ''}Drag the divider or move it with the arrow keys; Ctrl and the wheel, "
        "two fingers or a double click zoom."
    )
    below = f'<p class="note">{escape(notes)}</p>'
    html = viewer_page(job.source.name, {"picture": shown}, page_record(job, settings), below=below)
    path.write_text(html, encoding="utf-8")
