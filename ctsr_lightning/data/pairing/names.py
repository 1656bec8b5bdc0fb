"""What the file names of two folders carry around the part that partners share: the rule, and the search for it."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

COMMON_WORDS: Final = frozenset(
    {"gt", "hr", "input", "lq", "lr", "out", "output", "restored", "result", "sr", "target", "x"}
)
"""Words by which folders of one image set are told apart, numbers behind them (`LR4`, `x4`) taken off."""


@dataclass(frozen=True)
class Affix:
    """What the file names of a folder carry before and after the part that they share with their partners.

    Args:
        prefix: What the names start with.
        suffix: What the names end with, before the dot of the file format.
    """

    prefix: str = ""
    suffix: str = ""

    def core(self, name: str) -> str | None:
        """The name without prefix and suffix; None if it lacks one of them, or is nothing else."""
        if len(name) <= len(self.prefix) + len(self.suffix):
            return None
        if not (name.startswith(self.prefix) and name.endswith(self.suffix)):
            return None
        return name[len(self.prefix) : len(name) - len(self.suffix)]

    def __str__(self) -> str:
        parts = {"prefix": self.prefix, "suffix": self.suffix}
        return (
            " and ".join(f"the {what} '{text}'" for what, text in parts.items() if text) or "neither prefix nor suffix"
        )


@dataclass(frozen=True)
class Affixes:
    """The rule that two folders are matched by.

    Args:
        first: What the names of the first folder carry.
        second: What the names of the second folder carry.
    """

    first: Affix = Affix()
    second: Affix = Affix()

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """The prefix and suffix of the first, then of the second folder."""
        return self.first.prefix, self.first.suffix, self.second.prefix, self.second.suffix

    def describe(self, first: str, second: str) -> str:
        """Say what is taken off, such as "ground-truth names carry the prefix 'realsr_'"; nothing if that is nothing.

        Args:
            first: What the names of the first folder are called.
            second: What the names of the second folder are called.
        """
        sides = {first: self.first, second: self.second}
        return ", ".join(f"{name} carry {affix}" for name, affix in sides.items() if affix != Affix())


def find_rule(first: list[str], second: list[str]) -> Affixes:
    """The rule under which most names have a partner, the one that takes off least if several do equally well.

    Args:
        first: Paths below the first folder, without suffix.
        second: Paths below the second folder.
    """
    both = [split_path(key) for key in first], [split_path(key) for key in second]
    if set(first) == set(second):
        return Affixes()

    def score(rule: Affixes) -> tuple[int, int]:
        ones = {(parent, rule.first.core(name)) for parent, name in both[0]}
        others = {(parent, core) for parent, name in both[1] if (core := rule.second.core(name)) is not None}
        return len(ones & others), -len("".join(rule.texts))

    return max((Affixes(), *_candidates(*both)), key=score)


def only_numbers_shared(rule: Affixes, cores: Iterable[str]) -> bool:
    """Whether nothing but numbers says that files belong together, as in `Canon_001` and `Nikon_001`.

    So it is where the names of both folders carry words of their own, no common ones such as `LR` and `HR`, and the
    shared parts differ from each other in nothing but digits.

    Args:
        rule: What is taken off the names.
        cores: What is left of them: paths below the folder.
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


# Where the shared part of a name may begin and end: beside anything but letters and digits, at a capital letter after a
# small one, where a number follows letters (at its begin) or letters follow a number (at its end), and before `x4`.
# Never inside a number, and never so that a number right behind letters is taken for a suffix.
_BEGIN = re.compile(r"(?<![^\W_])(?=[^\W_])|(?<=[^\W\d_])(?=\d)|(?<=[a-z])(?=[A-Z])")
_END = re.compile(r"(?<=[^\W_])(?![^\W_])|(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=[xX]\d+(?![^\W_]))")
_WORD = re.compile(r"[\W_]*[^\W_]+")

# Limits that keep the search linear in the number of files and below a second for thousands.
_PLACES = 10  # begins and ends per name: a name of a set has few words, a hash has dozens of changes to digits
_SAMPLE = 32  # names of the smaller folder that rules are derived from
_COMMON = 32  # a part that this many names have in common does not tell them apart
_TRIED = 24  # rules that are tried on all names


def _candidates(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> list[Affixes]:
    """Rules under which some names of a sample have a partner, those of most names first."""
    swapped = len(first) > len(second)
    few, many = (second, first) if swapped else (first, second)
    wanted: dict[tuple[str, str], list[Affix]] = defaultdict(list)
    for parent, name in sorted(few)[:: math.ceil(len(few) / _SAMPLE)]:
        for core, affix in _split(name):
            wanted[parent, core].append(affix)
    found: dict[tuple[str, str], list[Affix]] = defaultdict(list)
    for parent, name in many:
        for core, affix in _split(name):
            if (parent, core) in wanted:
                found[parent, core].append(affix)
    votes: Counter[Affixes] = Counter()
    for place, affixes in found.items():
        if max(len(affixes), len(wanted[place])) <= _COMMON:
            votes.update(
                _reduced(two, one) if swapped else _reduced(one, two) for one, two in product(wanted[place], affixes)
            )
    # A number can be the image's own, so none is taken off by itself.
    allowed = [rule for rule, _ in votes.most_common() if not any(_is_number(text) for text in rule.texts)]
    return allowed[:_TRIED]


def _split(name: str) -> Iterator[tuple[str, Affix]]:
    """Every part of a name that may be what it shares with its partner, with what is before and after it."""
    begins = [match.start() for match in _BEGIN.finditer(name)][:_PLACES]
    ends = [match.start() for match in _END.finditer(name)][-_PLACES:]
    for begin, end in product(begins, ends):
        if begin < end:
            yield name[begin:end], Affix(name[:begin], name[end:])


def _reduced(first: Affix, second: Affix) -> Affixes:
    """Give the words that both folders' names carry next to the shared part back to it."""
    one, two = _apart(first.prefix[::-1], second.prefix[::-1])
    three, four = _apart(first.suffix, second.suffix)
    return Affixes(Affix(one[::-1], three), Affix(two[::-1], four))


def _apart(first: str, second: str) -> tuple[str, str]:
    """Two texts without the words that both begin with."""
    one, two = _WORD.match(first), _WORD.match(second)
    while one and two and one.group() == two.group():
        first, second = first[one.end() :], second[two.end() :]
        one, two = _WORD.match(first), _WORD.match(second)
    return first, second


def _is_number(text: str) -> bool:
    return any(letter.isdigit() for letter in text) and not any(letter.isalpha() for letter in text)
