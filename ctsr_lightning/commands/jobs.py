"""Which images `ctsr upscale` restores, where their results go, and one line about what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FORMATS = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff")


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


@dataclass
class Plan:
    """What is to be done.

    Args:
        jobs: The images; no two of their results share a file.
        problems: Inputs that cannot be restored, as sentences.
        notes: What is left out on purpose, as sentences.
    """

    jobs: list[Job] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan(inputs: Sequence[Path], output: Path, controls: Sequence[float], suffix: str) -> Plan:
    """List the images and name their results.

    Results of earlier runs that lie in the output folder are no inputs.

    Args:
        inputs: Images and folders; of several, one that is not there is a problem and the others go on.
        output: A folder, or a file name for one image.
        controls: Values of t.
        suffix: Format of the results.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If a result would replace an image, a file name has a suffix that is not written, or several images
            are to go into one file.
    """
    names_file = _names_file(output)
    if names_file and (len(inputs) > 1 or inputs[0].is_dir()):
        what = f"'{inputs[0]}' is a folder, so its" if len(inputs) == 1 else f"There are {len(inputs)} inputs, so their"
        raise ValueError(f"{what} results need a folder too, not the file '{output}'.")
    done, found = Plan(), dict[Path, tuple[Path, Path, str]]()
    for path in inputs:
        try:
            images = _images(path, output, names_file=names_file, notes=done.notes)
        except OSError as error:
            if len(inputs) == 1:
                raise
            done.problems.append(str(error))
            continue
        for source, stem in images:
            found.setdefault(source.absolute(), (source, stem, stem.as_posix()))
    sources, stems, keys = [source for source, _, _ in found.values()], list[Path](), list[str]()
    for _, stem, key in found.values():
        stems.append(Path(output.stem) if names_file else stem)
        keys.append(key)
    folder, suffix = (output.parent, output.suffix.lstrip(".")) if names_file else (output, suffix)
    done.jobs = [
        Job(source, tuple(folder / f"{name}{mark}.{suffix}" for mark in marks(controls)), key)
        for source, name, key in zip(sources, distinct(stems, sources), keys, strict=True)
    ]
    _check_originals(done.jobs)
    return done


def _names_file(output: Path) -> bool:
    """Whether an output is a file name and not a folder.

    Raises:
        ValueError: If it has the suffix of a format that is not written, or is another file.
    """
    from PIL import Image

    suffix = output.suffix.lower()
    if output.is_dir():
        return False
    if suffix[1:] in FORMATS:
        return True
    if output.exists():
        raise ValueError(f"Expected a folder to write to, found the file '{output}'. Name another folder.")
    if suffix in Image.registered_extensions() or suffix in {".heic", ".heif", ".jxl"}:
        raise ValueError(f"Expected a folder or a file ending in .{', .'.join(FORMATS)} as output, found '{output}'.")
    return False


def _images(path: Path, output: Path, *, names_file: bool, notes: list[str]) -> list[tuple[Path, Path]]:
    """Images of one input, each with the name of its result below the output folder, without suffix."""
    from ctsr_lightning.images import list_images, read_record

    if not path.is_dir():
        if not path.exists() and not path.is_symlink():
            option = " An option? See --help; the last word is where to write to." * path.name.startswith("-")
            raise FileNotFoundError(f"Expected an image or a folder of images at '{path}', found nothing.{option}")
        below = not names_file and _real(output) in path.absolute().parents
        if below and read_record(path):
            notes.append(f"'{path}' is the result of an earlier run and left out; another output folder takes it")
            return []
        return [(path, Path(path.stem))]
    root, inside = _real(path), _real(output)
    kept, own, others = list[Path](), 0, 0
    for image in list_images(path):
        below = inside in _real(image).parents
        if below and read_record(image):
            own += 1
        elif below and root in inside.parents:
            others += 1
        else:
            kept.append(image)
    if others:
        what = "1 image is" if others == 1 else f"{others} images are"
        notes.append(f"{what} left out that lie{'s' * (others == 1)} in the output folder '{output}'")
    if not kept:
        raise FileNotFoundError(
            f"Expected images below '{path}' that are no results of earlier runs in '{output}', found {own + others} "
            "of those alone. Name another output folder to restore them again."
        )
    return [(image, image.relative_to(path).with_suffix("")) for image in kept]


def _real(path: Path) -> Path:
    """A path without links, as far as they lead anywhere."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # of links in a circle
        return path.absolute()


def _check_originals(jobs: Sequence[Job]) -> None:
    originals = {_real(job.source) for job in jobs}
    for job in jobs:
        for target in job.targets:
            if _real(target) in originals:
                raise ValueError(f"The result '{target}' would replace an input image. Name another output folder.")


def distinct(stems: Sequence[Path], sources: Sequence[Path]) -> Iterator[str]:
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


def marks(controls: Sequence[float]) -> list[str]:
    """Suffixes that tell the restorations of one image apart; empty for a single one."""
    if len(controls) == 1:
        return [""]
    return [f"_t{t:.2f}" if round(t, 2) == t else f"_t{t}" for t in controls]


def summary(counts: Mapping[str, int], done: str, seconds: float, output: Path, how: str = "") -> str:
    """One line about what was done.

    Args:
        counts: Images by what became of them: `done`, `there` or `failed`.
        done: Participle of the work, `restored`.
        seconds: Time that it took.
        output: Where the results are.
        how: What follows the participle.
    """
    count = counts[done]
    pace = f", {seconds / count:.2f} s per image" if count else ""
    parts = [f"{count} image{'s' * (count != 1)} {done}{how}{pace}"]
    if counts["there"]:
        parts.append(f"{counts['there']} already there (--overwrite replaces them)")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed, named above")
    return f"{'; '.join(parts)} → {output}"
