"""Files of two folders paired by name, up to a prefix and suffix that all names of a folder share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unicodedata import normalize

from ctsr_lightning.images.listing import absence, list_names, named_path, relative_stem
from ctsr_lightning.images.patterns import Patterns, selected

REMEDY: Final = "Add, remove or rename files, or say which prefix and suffix the names of each folder carry."
COMMON_WORDS: Final = frozenset(
    {"gt", "hr", "input", "lq", "lr", "out", "output", "restored", "result", "sr", "target", "x"}
)
"""Words by which folders of one image set are told apart, numbers behind them (`LR4`, `x4`) taken off."""

# Word boundaries at which the part that partners share may begin and end: beside marks, between `a` and `B`, behind
# letters where digits begin (`img|1`) or behind digits where letters do (`1|SR`), before `x4`; never within a number.
_BEGIN: Final = re.compile(r"(?<![^\W_])(?=[^\W_])|(?<=[^\W\d_])(?=\d)|(?<=[a-z])(?=[A-Z])")
_END: Final = re.compile(
    r"(?<=[^\W_])(?![^\W_])|(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=[xX]\d+(?![^\W_]))"
)
_WORD: Final = re.compile(r"[\W_]*[^\W_]+")


@dataclass(frozen=True)
class Affix:
    """Prefix and suffix, before the dot of the file format, that the names of a folder carry."""

    prefix: str = ""
    suffix: str = ""

    def __str__(self) -> str:
        texts = (f"the {what} '{text}'" for what, text in vars(self).items() if text)
        return " and ".join(texts) or "neither prefix nor suffix"


@dataclass(frozen=True)
class Affixes:
    """Affixes of the names in the first and in the second folder, which are taken off before names are compared."""

    first: Affix = Affix()
    second: Affix = Affix()

    def describe(self, first: str, second: str) -> str:
        """Text such as "ground-truth names carry the prefix 'realsr_'", empty without affixes.

        Args:
            first: Noun for the names of the first folder.
            second: Noun for the names of the second folder.
        """
        sides = {first: self.first, second: self.second}
        return ", ".join(f"{name} carry {affix}" for name, affix in sides.items() if affix != Affix())


@dataclass(frozen=True)
class Matched:
    """Files paired one to one."""

    pairs: dict[str, tuple[Path, Path]]
    """The file of the first and of the second folder by the shared part of their paths, with forward slashes."""
    rule: Affixes
    """Affixes taken off the names."""
    absent: dict[Path, str] = field(default_factory=dict)
    """Entries of the folders that are no files, which are left out, with the reason of each."""


def match_files(
    first: str | Path,
    second: str | Path,
    rule: Affixes | None = None,
    *,
    remedy: str = REMEDY,
    include: Patterns = None,
    exclude: Patterns = None,
) -> Matched:
    """Pair the image files of two folders by their paths below them, without the suffix of the file format.

    Args:
        first: A folder, searched recursively.
        second: Another folder.
        rule: Affixes to take off the names that carry them; null finds those that all names carry, see `find_rule`.
        remedy: Last sentence of an error about names that do not match.
        include: Patterns of the paths to take, below either folder; None takes all.
        exclude: Patterns of those to leave out again.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If both folders are the same, several files have one stem, a file has no partner, partners share
            nothing but a number, or a pattern matches nothing.
    """
    one, two = named_path(first), named_path(second)
    listed = {root: _listed(root, include, exclude) for root in (one, two)}
    absent = {path: absence(path) for paths in listed.values() for path in paths if not path.is_file()}
    ones, twos = (
        _unique(root, ((relative_stem(root, path), path) for path in listed[root] if path not in absent))
        for root in (one, two)
    )
    if one.resolve() == two.resolve():
        raise ValueError(f"Expected two folders to match with each other, found '{one}' twice. Name the other one.")
    affixes = find_rule(list(ones), list(twos)) if rule is None and ones and twos else rule or Affixes()
    there, truths = _stripped(one, ones, affixes.first), _stripped(two, twos, affixes.second)
    found = Matched({key: (there[key], path) for key, path in truths.items() if key in there}, affixes, absent)
    if not found.pairs or not len(found.pairs) == len(ones) == len(twos):
        raise ValueError(_without_partner(one, ones, two, twos, found, remedy))
    if rule is None and only_numbers_shared(affixes, found.pairs):
        example = " with ".join(f"'{path.name}'" for path in min(found.pairs.values()))
        raise ValueError(
            f"Expected names in '{one}' and '{two}' that say which files belong together, found nothing but numbers in "
            f"common, which would pair {example}. {remedy}"
        )
    return found


def find_rule(first: list[str], second: list[str]) -> Affixes:
    """The longest suffix, then prefix, that all names of a folder share, without the words that both folders share.

    Both are cut back to a word boundary, and none is a number alone, which can be the image's own: `img1` is no partner
    of `img11`, nor `img_1` of `img_1_1`.

    Args:
        first: Paths below the first folder, without suffix, with forward slashes.
        second: Paths below the second folder.
    """
    if set(first) == set(second):
        return Affixes()
    names = [[split_path(key)[1] for key in keys] for keys in (first, second)]
    one, two = _of_two(*names[0], *names[1]) if len(first) == len(second) == 1 else map(_shared, names)
    before, after = _apart(one.prefix[::-1], two.prefix[::-1]), _apart(one.suffix, two.suffix)
    rule = Affixes(Affix(before[0][::-1], after[0]), Affix(before[1][::-1], after[1]))
    numbers = any(re.search(r"\d", text) and not re.search(r"[^\W\d_]", text) for text in (*before, *after))
    return Affixes() if numbers else rule


def only_numbers_shared(rule: Affixes, cores: Iterable[str]) -> bool:
    """Whether nothing but numbers pairs the files, as in `Canon_001` and `Nikon_001`.

    That is so where both folders have affixes with words of their own, other than `COMMON_WORDS`, and what is left of
    the names differs in nothing but digits.

    Args:
        rule: The affixes.
        cores: Paths below the folder without them.
    """

    def has_own_words(affix: Affix) -> bool:
        text = re.sub(r"x\d+(?![^\W_])", "", f"{affix.prefix} {affix.suffix}".lower())
        return not COMMON_WORDS.issuperset(re.findall(r"[^\W\d_]+", text))

    letters = {re.sub(r"[\W\d_]", "", split_path(core)[1]) for core in cores}
    return len(letters) == 1 and has_own_words(rule.first) and has_own_words(rule.second)


def split_path(key: str) -> tuple[str, str]:
    """A path with forward slashes as the folder, empty or with a slash at its end, and the name."""
    parent, slash, name = key.rpartition("/")
    return parent + slash, name


def _shared(names: list[str]) -> Affix:
    """The longest suffix, then prefix, that all names share, cut back to a word boundary."""
    suffix = _cut(names, _END, reverse=True)
    prefix = _cut([name[: len(name) - suffix] for name in names], _BEGIN)
    return Affix(names[0][:prefix], names[0][len(names[0]) - suffix :])


def _of_two(one: str, two: str) -> tuple[Affix, Affix]:
    """The affixes of two single names around the beginning or the end that they share, whichever is longer."""
    begin, end = _cut([one, two], _END), _cut([one, two], _BEGIN, reverse=True)
    if begin >= end:
        return Affix("", one[begin:]), Affix("", two[begin:])
    return Affix(one[: len(one) - end]), Affix(two[: len(two) - end])


def _cut(names: list[str], boundary: re.Pattern[str], *, reverse: bool = False) -> int:
    """Length of the longest beginning, or end, that all names share and behind which all have a boundary."""
    places = [{len(n) - m.start() if reverse else m.start() for m in boundary.finditer(n)} for n in names]

    def shared(place: int) -> bool:
        return len({n[len(n) - place :] if reverse else n[:place] for n in names}) == 1

    return max(filter(shared, set.intersection(*places)), default=0)


def _apart(first: str, second: str) -> tuple[str, str]:
    """Two texts without the words that both begin with."""
    one, two = _WORD.match(first), _WORD.match(second)
    while one and two and one.group() == two.group():
        first, second = first[one.end() :], second[two.end() :]
        one, two = _WORD.match(first), _WORD.match(second)
    return first, second


def _listed(root: Path, include: Patterns, exclude: Patterns) -> list[Path]:
    names = list_names(root)
    return [root / names[at] for at in selected(names, include, exclude, root)]


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


def _stripped(root: Path, files: dict[str, Path], affix: Affix) -> dict[str, Path]:
    split = ((*split_path(stem), path) for stem, path in files.items())
    prefix, suffix = (normalize("NFC", text) for text in (affix.prefix, affix.suffix))
    return _unique(root, ((p + name.removeprefix(prefix).removesuffix(suffix), f) for p, name, f in split))


def _without_partner(
    one: Path, ones: dict[str, Path], two: Path, twos: dict[str, Path], found: Matched, remedy: str
) -> str:
    """Error message with the number of pairs and the first files without a partner."""
    paired = {path for pair in found.pairs.values() for path in pair}
    alone = {
        root: [path.relative_to(root).as_posix() for path in files.values() if path not in paired]
        for root, files in ((one, ones), (two, twos))
    }
    left_out = "".join(f" '{path}' is {reason}." for path, reason in found.absent.items())
    carried = found.rule.describe(f"the names in '{one}'", f"those in '{two}'") if found.pairs else ""
    return (
        f"Expected a partner for each of the {len(ones)} files in '{one}' among the {len(twos)} in '{two}', found "
        f"{_count(len(found.pairs), 'pair')}{f', where {carried},' if carried else ''} and "
        f"{_count(sum(map(len, alone.values())), 'file')} without a partner: "
        f"{'; '.join(f'{_first(names)} in {root}' for root, names in alone.items() if names)}."
        f"{left_out} {remedy}"
    )


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _first(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(f"'{name}'" for name in names[:shown]) + (f" and {rest} more" if rest > 0 else "")
