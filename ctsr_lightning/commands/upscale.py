"""`ctsr upscale`: photos in, photos out."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctsr_lightning.commands.options import load_restorer
from ctsr_lightning.files import written_aside
from ctsr_lightning.inference.settings import Color, Precision, parse_controls
from ctsr_lightning.progress import progress

if TYPE_CHECKING:
    from ctsr_lightning.inference.restorer import Restorer


def upscale(
    images: str | Path,
    output: str | Path,
    checkpoint: str | Path | None = None,
    control: float | list[float] | str = 0.0,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    format: Literal["png", "jpg", "webp", "bmp", "tif"] = "png",  # noqa: A002 (the option is --format)
    overwrite: bool = False,
    color: Color = "none",
) -> int:
    """Restore photos: files or whole folders, at one or several values of t.

    Writes OUTPUT/NAME.png, or OUTPUT/NAME_t0.50.png and so on for several values of t. Images that are there already
    are skipped, so that an interrupted run can be repeated. Unreadable files are named and skipped; the exit code is
    then 1.

    Example:
        ctsr upscale photos/ restored/ --control 0,0.5,1

    Args:
        images: An image, or a folder that is searched recursively; its structure is kept.
        output: The folder to write to; for one image also a file name.
        checkpoint: A checkpoint of stage 2, stage 1 or the one-step teacher. Without it, nano, the model that comes
            with this package: small, trained on photographs.
        control: t, from 0 (realness) to 1 (fidelity); several as 0,0.5,1.
        tile: Side of a tile in input pixels, for images that do not fit into memory at once. By default 768 output
            pixels; 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type to compute in; the half types save memory on a GPU.
        format: File format of the results.
        overwrite: Replace results that are there already.
        color: Correction of colours by the enlarged input, over the whole image. none: colours of the model. adain:
            each channel takes over the input's mean and contrast, as OSEDiff's script does. wavelet: details over the
            input's low frequencies, against tints that differ from place to place. Either moves PSNR by tenths of a dB,
            up where a model shifts colours, down where the input's own colours are wrong.

    Returns:
        0, or 1 if an image could not be restored.
    """
    controls = parse_controls(control)
    images, output = Path(images).expanduser(), Path(output).expanduser()
    jobs = plan(images, output, controls, format)
    pending = [job for job in jobs if overwrite or not all(target.exists() for target in job.targets)]
    seconds, failures = 0.0, list[str]()
    if pending:
        restorer = load_restorer(checkpoint, tile=tile, device=device, precision=precision, color=color)
        for control_value in controls:
            restorer.check_control(control_value)
        with progress() as bar:
            for job in bar.track(pending, description="restoring"):
                start = time.perf_counter()
                problem = run(job, restorer, controls, overwrite=overwrite)
                if problem is None:
                    seconds += time.perf_counter() - start
                else:
                    failures.append(problem)
                    bar.console.print(f"skipped: {problem}", style="yellow", markup=False, highlight=False)
    restored, skipped = len(pending) - len(failures), len(jobs) - len(pending)
    print(summary(restored, skipped, len(failures), len(controls), seconds, output))
    return 1 if failures else 0


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Args:
        source: The image.
        targets: Where its restorations go, one per value of t.
        key: Its name for prompts: the path below the folder, with forward slashes, without suffix.
    """

    source: Path
    targets: tuple[Path, ...]
    key: str


def plan(images: Path, output: Path, controls: list[float], suffix: str) -> list[Job]:
    """List the images and name their results, so that no two of them share a file.

    Args:
        images: An image or a folder.
        output: A folder, or a file name for one image.
        controls: Values of t.
        suffix: Format of the results.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If a result would replace an image, or a folder of images is to go into one file.
    """
    from ctsr_lightning.images import IMAGE_SUFFIXES, list_images

    names_file = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
    if images.is_dir():
        if names_file:
            raise ValueError(f"'{images}' is a folder, so its results need a folder too, not the file '{output}'.")
        inside = output.resolve()
        same = inside == images.resolve()
        sources = [p for p in list_images(images) if same or inside not in p.resolve().parents]
        if not sources:
            raise FileNotFoundError(f"Expected images below '{images}' outside '{output}', found none.")
        stems = [p.relative_to(images).with_suffix("") for p in sources]
        keys = [stem.as_posix() for stem in stems]
        folder = output
    elif images.exists():
        sources, stems, keys = [images], [Path(output.stem if names_file else images.stem)], [images.stem]
        folder, suffix = (output.parent, output.suffix.lstrip(".")) if names_file else (output, suffix)
    else:
        raise FileNotFoundError(f"Expected an image or a folder of images at '{images}', found nothing.")
    jobs = [
        Job(source, tuple(folder / f"{name}{mark}.{suffix}" for mark in marks(controls)), key)
        for source, name, key in zip(sources, distinct(stems, sources), keys, strict=True)
    ]
    originals = {p.resolve() for p in sources}
    for job in jobs:
        for target in job.targets:
            if target.resolve() in originals:
                raise ValueError(f"The result '{target}' would replace an input image. Name another output folder.")
    return jobs


def distinct(stems: list[Path], sources: list[Path]) -> Iterator[str]:
    """Names without suffix; where a.png and a.jpg would share one, a_png and a_jpg."""
    counts = Counter(str(stem).casefold() for stem in stems)  # some file systems do not tell cases apart
    taken = {name for name, count in counts.items() if count == 1}
    for stem, source in zip(stems, sources, strict=True):
        name = str(stem)
        if counts[name.casefold()] > 1:
            name = f"{stem}_{source.suffix[1:]}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
        yield name


def marks(controls: list[float]) -> list[str]:
    """Suffixes that tell the restorations of one image apart; empty for a single one."""
    if len(controls) == 1:
        return [""]
    return [f"_t{t:.2f}" if round(t, 2) == t else f"_t{t}" for t in controls]


def run(job: Job, restorer: "Restorer", controls: list[float], *, overwrite: bool) -> str | None:
    """Restore one image and write what is missing.

    Args:
        job: The image and its results.
        restorer: The model.
        controls: Values of t, one per result.
        overwrite: Write results that are there already, too.

    Returns:
        What went wrong, or None.
    """
    import torch

    from ctsr_lightning.images import UnreadableImageError, read_image, write_image
    from ctsr_lightning.inference.restorer import RestorationError

    try:
        trajectory = restorer.trajectory(read_image(job.source), [job.key])
        for control, target in zip(controls, job.targets, strict=True):
            if overwrite or not target.exists():
                image = restorer.decode(trajectory, control)[0]
                with written_aside(target) as aside:
                    write_image(aside, image)
    except UnreadableImageError as error:
        return str(error)
    except RestorationError as error:
        return f"'{job.source}': {error}"
    except torch.OutOfMemoryError:
        now = f"tiles of {restorer.tile} pixels" if restorer.tile else "the whole image at once"
        smaller = max(32, restorer.tile // 2) if restorer.tile else 128
        return f"'{job.source}': out of memory. Use --tile {smaller} or less (now: {now})."
    return None


def summary(restored: int, skipped: int, failed: int, controls: int, seconds: float, output: Path) -> str:
    """One line about what was done."""
    pace = f", {seconds / restored:.2f} s per image" if restored else ""
    each = f" at {controls} values of t" if controls > 1 else ""
    parts = [f"{restored} image{'s' * (restored != 1)} restored{each}{pace}"]
    if skipped:
        parts.append(f"{skipped} already there (--overwrite replaces them)")
    if failed:
        parts.append(f"{failed} failed, named above")
    return f"{'; '.join(parts)} → {output}"
