"""Folders of restored images against folders of ground truth: checked as a whole first, then measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from ctsr_lightning.data.files import ImageCache, to_tensor
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.methods import Method, Restoration
from ctsr_lightning.evaluation.records import Records
from ctsr_lightning.images import UnreadableImageError, image_kind, image_size

SHOWN = 5
"""Problems that an error names before it counts the rest."""

RESTORED = Method("restored", "restored")


def problems(restored: Path, gt: Path, cache: ImageCache) -> list[str]:
    """Reasons why a pair cannot be measured, as sentences.

    Args:
        restored: The restored image.
        gt: The ground truth.
        cache: Decodes both, and keeps them if there is room.
    """
    try:
        sizes = [image_size(path) for path in (restored, gt)]
        kinds = [image_kind(path) for path in (restored, gt)]
        arrays = [cache.pixels(path) for path in (restored, gt)]
    except (UnreadableImageError, FileNotFoundError) as error:
        return [str(error)]
    found = [
        f"'{path}' has transparent pixels, which have no defined colour: flatten it."
        for path, kind in zip((restored, gt), kinds, strict=True)
        if kind == "transparent"
    ]
    if sizes[0] != sizes[1]:
        (height, width), (true_height, true_width) = sizes
        found.append(
            f"'{restored}' has {width}x{height} pixels, its ground truth {true_width}x{true_height}: restore at the "
            "scale of the ground truth, and cut ground truth as it was cut to make the low-quality images."
        )
    coloured = bool((arrays[1] != arrays[1][..., :1]).any())
    if kinds[0] == "grey" and coloured:
        found.append(f"'{restored}' is a grey image, its ground truth '{gt.name}' has colours: keep the colours.")
    return found


def check(pairs: Iterable[tuple[Path, Path]], cache: ImageCache) -> None:
    """Refuse a comparison that some pair does not allow, before anything is measured.

    Args:
        pairs: Restored images and ground truth.
        cache: Decodes them.

    Raises:
        ValueError: If any image is unreadable or transparent, sizes differ, or colours are lost; names the first few.
    """
    found = [problem for restored, gt in pairs for problem in problems(restored, gt, cache)]
    if found:
        rest = f"\n… and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(
            f"{len(found)} problem{'s' * (len(found) > 1)} with the images; nothing was measured, as averages over a "
            "part of them would mislead:\n- " + "\n- ".join(found[:SHOWN]) + rest
        )


def measure(
    pairs: Iterable[tuple[int, tuple[str, Path, Path]]],
    cache: ImageCache,
    measurements: Measurements,
    records: Records | None = None,
) -> None:
    """Measure pairs one by one.

    Args:
        pairs: Number, and name, restored image and ground truth.
        cache: Decodes the images.
        measurements: Where the results go.
        records: Keeps what was measured of each pair.
    """
    for index, (key, restored, gt) in pairs:
        image, truth = (to_tensor(cache.pixels(path))[None] for path in (restored, gt))
        one = measurements.of_one_image()
        with torch.no_grad():
            one.add(key, Restoration(RESTORED, image), truth)
        part = one.part()
        if records is None:
            measurements.include([part])
        else:
            measurements.rows += part.rows  # for a report of what was measured; all is put together later
            records.write(index, part)
