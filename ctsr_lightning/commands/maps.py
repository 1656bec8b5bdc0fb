"""The map of t that `ctsr upscale --control-map` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctsr_lightning.inference.settings import AUTO

if TYPE_CHECKING:
    from torch import Tensor

    from ctsr_lightning.inference.restorer import Restorer


def check_map(controls: list[float], control_map: str | Path | None, *, save_map: bool) -> None:
    """Refuse a map of t beside numbers, one that is not there, and a picture of none.

    Args:
        controls: Values of t; 0 alone is the default.
        control_map: `auto`, or a file.
        save_map: Whether its picture is to be written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the options do not go together.
    """
    if control_map is None:
        if save_map:
            raise ValueError(
                f"Expected --control-map with --save-map, found none. Add --control-map {AUTO}, or a file."
            )
        return
    if controls != [0.0]:
        found = ",".join(f"{t:g}" for t in controls)
        raise ValueError(f"Expected one of --control and --control-map, found {found} and {control_map}.")
    if control_map != AUTO and not Path(control_map).is_file():
        raise FileNotFoundError(f"Expected a map at '{control_map}', found no file. Name an image, or {AUTO}.")


def map_of(colours: Tensor, restorer: Restorer, control_map: str | Path) -> Tensor:
    """Map of t for a photo, in pixels of the model's output, shape (1, 1, H, W).

    Args:
        colours: The photo, RGB in [0, 1], shape (3, h, w).
        restorer: The model.
        control_map: `auto`, or a file.

    Raises:
        ValueError: If the file's image has another shape.
    """
    from ctsr_lightning.inference.control_map import automatic_map, fit_map, read_map

    rows, columns = colours.shape[-2:]
    found = automatic_map(colours[None]) if control_map == AUTO else read_map(control_map, (rows, columns))
    return fit_map(found, (rows * restorer.scale, columns * restorer.scale))
