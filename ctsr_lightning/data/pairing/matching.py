"""Files of two folders paired by name, up to a prefix or suffix that all names of a folder carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ctsr_lightning.data.files import relative_stem
from ctsr_lightning.data.pairing.names import Affix, Affixes, find_rule, only_numbers_shared, split_path
from ctsr_lightning.images import list_images

REMEDY: Final = "Add, remove or rename files, or say which prefix and suffix the names of each folder carry."


@dataclass(frozen=True)
class Matched:
    """Files paired one to one."""

    pairs: dict[str, tuple[Path, Path]]
    """The file of the first and of the second folder by what their paths share, with forward slashes."""
    rule: Affixes
    """What was taken off the names."""


def match_files(first: str | Path, second: str | Path, rule: Affixes | None = None, *, remedy: str = REMEDY) -> Matched:
    """Pair the image files of two folders by their paths below them, without the suffix of the file format.

    Without a rule, equal names are paired; if they are not all equal, that prefix and suffix of each folder's names is
    searched under which all files pair one to one. It never cuts a number: `img1` is no partner of `img11`.

    Args:
        first: A folder, searched recursively.
        second: Another folder.
        rule: What is taken off the names that carry it; null searches for it, `Affixes()` takes nothing off.
        remedy: The last sentence of an error: what the user can do about names that do not match.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If both folders are the same, several files have one stem, a file has no partner, or the names do
            not say which files belong together.
    """
    one, two = Path(first).expanduser(), Path(second).expanduser()
    ones, twos = files_by_stem(one), files_by_stem(two)
    if one.resolve() == two.resolve():
        raise ValueError(f"Expected two folders to match with each other, found '{one}' twice. Name the other one.")
    found = _with_rule(one, ones, two, twos, rule) if rule is not None else _searched(ones, twos)
    whole = len(found.pairs) == len(ones) == len(twos)
    if not whole:
        raise ValueError(_without_partner(one, ones, two, twos, found, remedy))
    if rule is None and only_numbers_shared(found.rule, found.pairs):
        example = " with ".join(f"'{path.name}'" for path in min(found.pairs.values()))
        raise ValueError(
            f"Expected names in '{one}' and '{two}' that say which files belong together, found nothing but numbers in "
            f"common, which would pair {example}. {remedy}"
        )
    return found


def files_by_stem(root: Path) -> dict[str, Path]:
    """The image files below a folder by their paths below it, without the suffix of the file format.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no image.
        ValueError: If several files have one stem.
    """
    return _unique(root, ((relative_stem(root, path), path) for path in list_images(root)))


def _unique(root: Path, named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for key, path in named:
        if key in found:
            raise ValueError(
                f"Expected one image per stem in '{root}', found '{found[key].name}' and '{path.name}'. "
                "Remove or rename one of them."
            )
        found[key] = path
    return found


def _with_rule(one: Path, ones: dict[str, Path], two: Path, twos: dict[str, Path], rule: Affixes) -> Matched:
    """Pair by a rule that was given; names that lack a prefix or suffix are compared as they are."""

    def stripped(root: Path, files: dict[str, Path], affix: Affix) -> dict[str, Path]:
        split = ((*split_path(stem), path) for stem, path in files.items())
        named = ((parent + name.removeprefix(affix.prefix).removesuffix(affix.suffix), p) for parent, name, p in split)
        return _unique(root, named)

    return Matched(_paired(stripped(one, ones, rule.first), stripped(two, twos, rule.second)), rule)


def _searched(ones: dict[str, Path], twos: dict[str, Path]) -> Matched:
    """Pair by the best rule there is; names that lack its prefixes and suffixes have no partner."""

    def stripped(files: dict[str, Path], affix: Affix) -> dict[str, Path]:
        split = ((*split_path(stem), path) for stem, path in files.items())
        return {parent + core: path for parent, name, path in split if (core := affix.core(name)) is not None}

    rule = find_rule(list(ones), list(twos))
    return Matched(_paired(stripped(ones, rule.first), stripped(twos, rule.second)), rule)


def _paired(ones: dict[str, Path], twos: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    return {key: (ones[key], path) for key, path in twos.items() if key in ones}


def _without_partner(
    one: Path, ones: dict[str, Path], two: Path, twos: dict[str, Path], found: Matched, remedy: str
) -> str:
    """Say how many files pair under the best rule, and which do not."""
    paired = {path for pair in found.pairs.values() for path in pair}
    alone = {
        root: [path.relative_to(root).as_posix() for path in files.values() if path not in paired]
        for root, files in ((one, ones), (two, twos))
    }
    carried = found.rule.describe(f"the names in '{one}'", f"those in '{two}'") if found.pairs else ""
    return (
        f"Expected a partner for each of the {len(ones)} files in '{one}' among the {len(twos)} in '{two}', found "
        f"{_count(len(found.pairs), 'pair')}{f', where {carried},' if carried else ''} and "
        f"{_count(sum(map(len, alone.values())), 'file')} without a partner: "
        f"{'; '.join(f'{_first(names)} in {root}' for root, names in alone.items() if names)}. {remedy}"
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _first(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(f"'{name}'" for name in names[:shown]) + (f" and {rest} more" if rest > 0 else "")
