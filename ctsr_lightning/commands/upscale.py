"""`ctsr upscale`: photos in, photos out."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctsr_lightning.commands.jobs import Job, plan, summary
from ctsr_lightning.commands.maps import check_map, map_of
from ctsr_lightning.commands.options import load_restorer, model_identity, prompt_words
from ctsr_lightning.commands.output import quiet, result, tell
from ctsr_lightning.commands.pages import page_controls, page_path, page_state, write_page
from ctsr_lightning.commands.records import DONE, MISSING, Settings
from ctsr_lightning.commands.tile_progress import tile_progress
from ctsr_lightning.files import written_aside
from ctsr_lightning.inference.settings import Color, OutputSize, Precision, Space, parse_controls
from ctsr_lightning.progress import progress

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.inference.trajectory import Trajectory

SMALLEST_TILE = 16
"""Side of the least tile that is recommended, in input pixels."""


def upscale(
    *paths: str | Path,
    checkpoint: str | Path | None = None,
    control: float | list[float] | str = 0.0,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    format: Literal["png", "jpg", "webp", "bmp", "tif"] = "png",  # noqa: A002 (the option is --format)
    overwrite: bool = False,
    color: Color = "none",
    profile: Literal["srgb", "keep"] = "srgb",
    strip: bool = False,
    prompt: str | None = None,
    scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    space: Space = "latent",
    control_map: str | Path | None = None,
    save_map: bool = False,
    page: bool = False,
) -> int:
    """Restore photos: files and whole folders, at one or several values of t.

    Writes OUTPUT/NAME.png, or OUTPUT/NAME_t0.50.png and so on for several values of t. Grey stays grey; transparency
    and 16 bits are kept where the format has them; EXIF, resolution and colour profile go with the result. Results say
    how they were made: those that the same command has made are skipped, so that an interrupted run can be repeated;
    others are not replaced. Images that cannot be restored are named and the others go on; the exit code is then 1.

    Example:
        ctsr upscale photos/ restored/ --control 0,0.5,1

    Args:
        paths: Images and folders, which are searched recursively and whose structure is kept; last, the folder to
            write to, for one image also a file name.
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
        profile: What becomes of a colour profile. srgb: colours are converted to sRGB. keep: they stay in it, and the
            result has it.
        strip: Leave out EXIF, resolution and colour profile; of metadata, only how the result was made remains.
        prompt: Text for every image in place of the model's own prompt, or a file (.json, .tsv, .txt) with one for each
            image, as ctsr tag writes it. For models that were trained with texts.
        scale: Enlargement of the results, such as 2 or 3.3: the model's own first, then one bicubic resampling.
        width: Width of the results in pixels in place of --scale; the height follows.
        height: Height of the results in pixels in place of --scale; the width follows.
        space: Where t acts. latent: z(t) is decoded for each t. image: t mixes the decoded images of t = 0 and t = 1,
            so that two decodes serve every t and every map.
        control_map: A map in place of --control, for models that take maps, and any with a slider in --space image.
            auto: faithful at lettering, fine structure and strong edges, realistic in texture. Or an image of the
            photo's shape: black is t = 0, realistic, white t = 1, faithful.
        save_map: Write the map of t beside the result as NAME_map.png.
        page: Write OUTPUT/NAME.html as well: input and restorations under a divider that is dragged, with a slider
            over the values of --control, by default 0, 0.5 and 1. It holds its pictures, needs no network and can be
            mailed.

    Returns:
        0, or 1 if an image could not be restored.
    """
    controls = parse_controls(control)
    check_paths(paths)
    if strip and profile == "keep":
        raise ValueError("Expected one of --strip and --profile keep: colours in a profile mean nothing without it.")
    check_map(controls, control_map, save_map=save_map)
    *inputs, output = (Path(word).expanduser() for word in paths)
    planned = plan(inputs, output, controls, format)
    settings = Settings(
        tuple(controls),
        model_identity(checkpoint),
        color,
        precision,
        profile,
        strip=strip,
        overwrite=overwrite,
        prompt=prompt_words(prompt),
        size=OutputSize(scale, width, height),
        space=space,
        control_map=control_map,
        save_map=save_map,
        page=page,
    )
    counts, seconds, restorer = Counter[str](failed=len(planned.problems)), 0.0, None
    files = list[Path]()
    with progress() as bar:

        def say(text: str) -> None:
            bar.console.print(f"ctsr: {text}", markup=False, highlight=False, soft_wrap=True)

        def remark(text: str) -> None:
            if not quiet():
                say(text)

        for text in (*planned.problems, *planned.notes):
            say(text)
        for job in bar.track(planned.jobs, description="restoring"):
            states = settings.states(job)
            if {*states, page_state(job, settings)} == {DONE}:
                counts["there"] += 1
                files += job.targets
                continue
            if restorer is None:
                restorer = load_restorer(
                    checkpoint, tile=tile, device=device, precision=precision, color=color, prompt=prompt, space=space
                )
                check_controls(restorer, settings)
            start = time.perf_counter()
            problems = run(job, states, restorer, settings, bar, say, remark)
            for problem in problems:
                say(f"skipped: {problem}")
            counts["failed" if problems else "restored"] += 1
            files += [] if problems else job.targets
            seconds += 0.0 if problems else time.perf_counter() - start
    each = f" at {len(controls)} values of t" if len(controls) > 1 else ""
    tell(summary(counts, "restored", seconds, output, each))
    done = {name: counts[name] for name in ("restored", "there", "failed")}
    result(output=output, control=controls, **done, seconds=seconds, files=files)
    return 1 if counts["failed"] else 0


def check_paths(paths: tuple[str | Path, ...]) -> None:
    """Refuse paths that cannot be images and an output.

    Args:
        paths: The words of the command line.

    Raises:
        ValueError: If there are fewer than two, or one is empty.
    """
    if len(paths) < 2:
        raise ValueError(f"Expected images and an output, found {len(paths)} path. Name the output last.")
    if empty := [word for word in paths if not str(word)]:
        raise ValueError(f"Expected {len(paths)} paths, found {len(empty)} empty. Is a variable of the shell not set?")


def check_controls(restorer: "Restorer", settings: Settings) -> None:
    """Refuse values of t, or a map of it, that a model does not take.

    Args:
        restorer: The model.
        settings: How results are made.

    Raises:
        ValueError: If it does not.
    """
    import torch

    for t in settings.controls if settings.control_map is None else [torch.ones(1, 1)]:
        restorer.check_control(t)


def run(
    job: Job,
    states: list[str],
    restorer: "Restorer",
    settings: Settings,
    bar: "Progress",
    say: Callable[[str], None],
    remark: Callable[[str], None],
) -> list[str]:
    """Restore one image and write what is missing.

    Args:
        job: The image and its results.
        states: State of each result.
        restorer: The model.
        settings: How results are made.
        bar: Where tiles of a large image are counted.
        say: Takes notes about what a result does not hold.
        remark: Takes the estimate of its time, and its page.

    Returns:
        What went wrong.
    """
    from ctsr_lightning.images import image_size

    problems = [
        f"'{target}' is there already, {state}. Use --overwrite, or another output folder."
        for target, state in zip(job.targets, states, strict=True)
        if state not in {MISSING, DONE}
    ]
    results = zip(settings.controls, job.targets, states, strict=True)
    missing = [(t, target) for t, target, state in results if state == MISSING]
    state = page_state(job, settings)
    if state not in {MISSING, DONE}:
        problems.append(f"'{page_path(job, settings)}' is there already, {state}. Use --overwrite.")
    try:
        for note in write(job, missing, restorer, settings, bar, remark, page=state == MISSING):
            say(f"'{job.source}': {note}.")
    except (OSError, ValueError, OverflowError, struct.error) as error:
        problems.append(str(error) if str(job.source) in str(error) else f"'{job.source}': {error}")
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        problems.append(f"'{job.source}': out of memory. {smaller_tile(restorer.tile, max(image_size(job.source)))}")
    return problems


def write(
    job: Job,
    missing: list[tuple[float, Path]],
    restorer: "Restorer",
    settings: Settings,
    bar: "Progress",
    remark: Callable[[str], None],
    *,
    page: bool,
) -> Iterator[str]:
    """Restore one image at the values of t whose results are missing.

    Args:
        job: The image.
        missing: Values of t, and where their results go.
        restorer: The model.
        settings: How results are made.
        bar: Where tiles of a large image are counted.
        remark: Takes the estimate of its time, and its page.
        page: Whether its page is missing, too.

    Yields:
        Notes about what a result does not hold.
    """
    from ctsr_lightning.images import Metadata, check_size, read_picture, resize_bicubic, write_picture
    from ctsr_lightning.inference.photos import Photo

    if not (missing or page):
        return
    picture = read_picture(job.source, keep_profile=settings.profile == "keep")
    yield from picture.notes
    rows, columns = picture.colours.shape[-2:]
    size = settings.size.of(rows, columns, restorer.scale)
    for _, target in missing:
        check_size(target, *size)
    photo, images = Photo.of(picture), dict[float, "Tensor"]()
    control = None if settings.control_map is None else map_of(photo.colours, restorer, settings.control_map)
    slides = restorer.controllable and control is None
    shown = page_controls(settings, controllable=slides) if page else ()
    values = {*shown, *(t for t, _ in missing)}
    said = set[str]()
    tiled = 0 < restorer.tile < max(rows, columns)
    tiles = restorer.tiles(rows, columns, len(values)) if tiled else 0
    with tile_progress(bar, remark, str(job.source), size, tiles) as done:
        wanted = [t for t, _ in missing]
        wanted += [t for t in shown if t not in wanted]
        eight_bit = not page and picture.depth == 8 and picture.alpha is None and not photo.colourless  # it is the file
        decode = partial(restorer.decode, size=settings.size, done=done, eight_bit=eight_bit)
        trajectory = [restorer.trajectory(photo.colours, [job.key], done)]
        restored = zip(wanted, _restored(trajectory, decode, wanted, control), strict=True)
        for _, target in missing:
            t, image = next(restored)
            kept = photo.restored(image)
            if settings.strip:
                kept = replace(kept, metadata=Metadata())
            with written_aside(target) as aside:
                notes = write_picture(aside, kept, settings.record(t, job))
            yield from (note for note in notes if note not in said)
            said.update(notes)
            if page:
                images[t] = image
        images |= dict(restored)
    if control is not None and settings.save_map and missing:
        with written_aside(target.with_name(f"{target.stem}_map.png")) as aside:
            drawn = replace(picture, colours=control[0].expand(3, -1, -1), alpha=None, grey=True, depth=8)
            write_picture(aside, replace(drawn, metadata=Metadata()), settings.record(t, job))
    if page:
        with written_aside(path := page_path(job, settings)) as aside:
            enlarged = resize_bicubic(photo.colours[None], size)[0]
            write_page(aside, job, settings, photo, enlarged, {t: images[t] for t in shown})
        remark(f"'{job.source}': its page is '{path.name}', {path.stat().st_size / 1e6:.1f} MB.")


def _restored(
    trajectory: "list[Trajectory]",
    decode: "Callable[[Trajectory, float | Tensor], Tensor]",
    values: Sequence[float],
    control: "Tensor | None",
) -> "Iterator[Tensor]":
    """Restorations of one image at several t, or by a map; its latents, taken from the list, go with the last."""
    for index, t in enumerate(values, 1):
        path = trajectory[0] if index < len(values) else trajectory.pop()
        image = decode(path, t if control is None else control)[0]
        del path
        yield image


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a GPU or in the machine."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def smaller_tile(tile: int, longest: int) -> str:
    """What to do where memory is not enough for an image.

    Args:
        tile: Side of a tile in input pixels; 0 never tiles.
        longest: The image's longer side.
    """
    now = f"tiles of {tile} pixels" if 0 < tile < longest else "the whole image at once"
    smaller = tile // 2 if 0 < tile < longest else min(128, longest // 2)
    if smaller < SMALLEST_TILE:
        return f"Use --device cpu, or free memory (now: {now})."
    return f"Use --tile {smaller} or less (now: {now})."
