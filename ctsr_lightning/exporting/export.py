"""Writing of a model in a format, loading it again and comparing."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from ctsr_lightning.exporting.folders import write_folder, write_safetensors
from ctsr_lightning.exporting.graphs import COMPARED, multiple, require_onnx, restore, write_onnx, write_torch
from ctsr_lightning.exporting.osediff import write_osediff
from ctsr_lightning.files import written_aside
from ctsr_lightning.inference.card import write_card
from ctsr_lightning.inference.loading import read_configuration
from ctsr_lightning.inference.merged import merged_weights
from ctsr_lightning.inference.restorer import Restorer

Format = Literal["folder", "safetensors", "osediff", "onnx", "torch"]
"""What `export` writes."""
TOLERANCE: Final = 0.5 / 255
"""Largest difference of a pixel in [0, 1] that an export is let pass with, half a grey level: where weights lie in
memory, and who computes, changes rounding. Weights in folders have to be the same bits."""
CONTROLS: Final = (0.0, 1.0)
"""Values of t that are compared."""
_USE: Final = (
    "Graphs of any height and width, batch of one: `restorer.json` names them, with their inputs and outputs. The",
    "image goes in enlarged, RGB in [0, 1], its low-quality sides multiples of `multiple`; examples/restore_onnx.py of",
    "ctsr-lightning is a whole program.",
)


class Exported(NamedTuple):
    """Result of an export."""

    path: Path
    """What was written."""
    difference: float
    """Largest difference after it was loaded again: of pixels in [0, 1], of OSEDiff's dialect of weights."""
    files: dict[str, int]
    """Sizes of the files in bytes, by name."""


def export_model(name: str | Path, form: Format, output: Path, prompt: str | None = None) -> Exported:
    """Write a model in a format, load what was written, and compare it with the model.

    What does not pass is not left behind.

    Args:
        name: The model, as in `Restorer.from_pretrained`.
        form: The format.
        output: The folder to write, new or empty; for OSEDiff's dialect the file.
        prompt: A text in place of the model's own prompt.

    Raises:
        ImportError: If a package of the extra `export` is not there.
        ValueError: If there is something in the output's place, the format cannot hold the model, or what was written
            restores other images.
    """
    _check_place(output, form)
    if form == "osediff" and prompt is not None:
        raise ValueError(f"Expected no --prompt for osediff, which holds none, found '{prompt}'. Leave it out.")
    if form == "onnx":
        require_onnx()
    restorer = Restorer.from_pretrained(name, "cpu", tile=0, prompt=prompt)
    assert restorer.source is not None
    if form == "osediff":
        with written_aside(output) as aside:
            difference = write_osediff(restorer.source, aside)
            _check(difference, 0.0, output)
        return Exported(output, difference, {output.name: output.stat().st_size})
    with _new_folder(output) as folder:
        if form in {"folder", "safetensors"}:
            (write_folder if form == "folder" else write_safetensors)(restorer, folder)
            difference = _difference(restorer, Restorer.from_pretrained(folder, "cpu", tile=0))
        else:
            difference = _graph_difference(restorer, form, folder)
            write_card(folder, restorer.source, restorer.model, read_configuration(restorer.source), _USE)
        _check(difference, TOLERANCE, output)
    files = {file.relative_to(output).as_posix(): file.stat().st_size for file in sorted(output.rglob("*"))}
    return Exported(output, difference, {name: size for name, size in files.items() if (output / name).is_file()})


def _check_place(output: Path, form: Format) -> None:
    if form == "osediff":
        if output.exists():
            raise ValueError(f"Expected a new file at '{output}', found one there. Name another, or remove it.")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"Expected a new or empty folder at '{output}', found files there. Name another one.")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Within this context a folder is written beside its place; it appears there as a whole, or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=output.parent) as aside:
        folder = Path(aside) / "new"
        folder.mkdir()
        yield folder
        if output.is_dir():
            output.rmdir()
        shutil.move(folder, output)


def _image(restorer: Restorer) -> Tensor:
    """Random pixels of another size than graphs are traced at, shape (1, 3, h, w)."""
    sides = (multiple(restorer) * count for count in COMPARED)
    return torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(1))


def _controls(restorer: Restorer) -> tuple[float, ...]:
    return CONTROLS if restorer.controllable else CONTROLS[:1]


def _difference(restorer: Restorer, again: Restorer) -> float:
    """Largest difference between the images of two models; infinite if their weights differ."""
    ours, theirs = merged_weights(restorer.model), merged_weights(again.model)
    if not all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()):
        return math.inf
    lq, controls = _image(restorer), _controls(restorer)
    pairs = zip(restorer(lq, controls), again(lq, controls), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@torch.no_grad()
def _graph_difference(restorer: Restorer, form: Format, folder: Path) -> float:
    """Largest difference between the images of a model and those of its graphs, as they were read again."""
    runs = (write_onnx if form == "onnx" else write_torch)(restorer, folder)
    lq, controls = _image(restorer), _controls(restorer)
    images = zip(restorer(lq, controls), controls, strict=True)
    return max(float((image - restore(runs, lq, restorer.scale, t)).abs().max()) for image, t in images)


def _check(difference: float, tolerance: float, output: Path) -> None:
    if not difference <= tolerance:
        raise ValueError(
            f"Expected what is read from '{output}' to differ by {tolerance:.2g} at most, found {difference:.2g}; it "
            "was not kept. Use another --format."
        )
