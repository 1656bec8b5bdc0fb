"""The rule that names of two folders are matched by: what is found, and what must not be."""

import random
import time

import pytest

from ctsr_lightning.data.pairing.matching import Affix, Affixes, find_rule, only_numbers_shared, split_path

NUMBERS = [str(number) for number in range(1, 21)]
STEMS = ["Canon_001", "Canon_002", "Nikon_001", "Nikon_017", "Panasonic_003"]


def _named(names, prefix="", suffix=""):
    return [f"{prefix}{name}{suffix}" for name in names]


def _core(affix, name):
    """A path without what is taken off its name."""
    parent, name = split_path(name)
    return parent + name.removeprefix(affix.prefix).removesuffix(affix.suffix)


def _pairs(first, second, rule):
    """The names paired by a rule, as the names of the first folder with those of the second."""
    ones = {_core(rule.first, name): name for name in first}
    twos = {_core(rule.second, name): name for name in second}
    return {ones[core]: twos[core] for core in ones.keys() & twos.keys()}


@pytest.mark.parametrize(
    ("cores", "first", "second"),
    [
        (STEMS, ("", ""), ("", "")),
        (STEMS, ("", "_LR4"), ("realsr_", "_LR4")),
        (STEMS, ("", "_LR4"), ("", "_HR")),
        (STEMS, ("", "_LR4_osediff"), ("realsr_", "_LR4")),
        (STEMS, ("", "_x4"), ("", "_x1")),
        (STEMS, ("", "_lq"), ("", "_gt")),
        (STEMS, ("lq_", ""), ("gt_", "")),
        (["0801", "0802", "0900"], ("", "x4"), ("", "")),
        (["0801", "0802", "0900"], ("", ""), ("", "_SR")),
        (["0801", "0802", "0900"], ("", "_out"), ("", "")),
        (["0801", "0802", "0900"], ("", "SR"), ("", "_HR")),
        (["0801", "0802", "0900"], ("", ""), ("", "_restored")),
        (["0801", "0802", "0900"], ("", "_t0.50"), ("", "")),
        (["0801", "0802", "0900"], ("ctsr-", "x4 (copy)"), ("", "")),
        (["baby", "bird", "butterfly"], ("", "x4"), ("", "")),
        (NUMBERS, ("", ""), ("x", "")),
        (NUMBERS, ("", ""), ("img", "x2")),
        (NUMBERS, ("lr", ""), ("hr", "")),
        (["DSC1", "DSC11", "DSC111"], ("", "LR"), ("", "HR")),
        (["cat", "tabby_cat"], ("", "_out"), ("", "")),
        (["a", "a_SR"], ("", ""), ("", "_SR")),
        (["cat"], ("", "_out"), ("", "")),
        (["foto é", "猫"], ("", ""), ("", "_sr")),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_usual_names_are_paired(cores, first, second, swapped):
    if swapped:
        first, second = second, first
    ones, twos = _named(cores, *first), _named(cores, *second)
    rule = find_rule(ones, random.Random(0).sample(twos, len(twos)))
    assert _pairs(ones, twos, rule) == dict(zip(ones, twos, strict=True))
    assert not only_numbers_shared(rule, cores)


def test_the_least_is_taken_off():
    rule = find_rule(_named(STEMS, "", "_LR4"), _named(STEMS, "realsr_", "_LR4"))
    assert rule == Affixes(second=Affix("realsr_", ""))
    assert rule.describe("restored names", "ground-truth names") == "ground-truth names carry the prefix 'realsr_'"
    rule = find_rule(_named(STEMS, "", "_LR4"), _named(STEMS, "my_", "_HR"))
    assert rule == Affixes(Affix("", "_LR4"), Affix("my_", "_HR"))
    assert rule.describe("those", "these") == (
        "those carry the suffix '_LR4', these carry the prefix 'my_' and the suffix '_HR'"
    )
    assert Affixes().describe("those", "these") == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["img1"], ["img11"]),
        (["img1", "img2", "img3"], ["img11", "img12", "img13"]),
        (["1", "2", "3"], ["10", "20", "30"]),
        (["1", "2"], ["11", "12"]),
        (["img_1"], ["img_2"]),
        (["img_1"], ["img_1_1"]),
        (["img_1", "img_2"], ["img_1_1", "img_2_1"]),
        (["001", "002"], ["1", "2"]),
        (["cat"], ["cats"]),
        (["cat1", "dog1"], ["cat2", "dog2"]),
        (["cat", "dog"], ["sheep", "cow"]),
        (["--", "++"], ["-", "+"]),
        (["a/1"], ["b/1_SR"]),
    ],
)
def test_other_numbers_and_words_are_no_partners(first, second):
    rule = find_rule(first, second)
    pairs = _pairs(first, second, rule)
    assert len(pairs) < len(first) or only_numbers_shared(rule, [_core(rule.first, name) for name in first])


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (["Canon_001", "Canon_002"], ["Nikon_001", "Nikon_002"], True),
        (["frame_001_a", "frame_002_a"], ["frame_001_b", "frame_002_b"], True),
        (["cat_a"], ["cat_b"], True),
        (["Canon_001_a", "Nikon_001_a"], ["my_Canon_001", "my_Nikon_001"], False),
        (["Canon_001", "Canon_002"], ["gt_001", "gt_002"], False),
        (["Canon_001", "Canon_002"], ["001x4", "002x4"], False),
        (["clip/001_LR4", "clip/002_LR4"], ["clip/001_HR", "clip/002_HR"], False),
    ],
)
def test_numbers_alone_say_little(first, second, refused):
    rule = find_rule(first, second)
    cores = [_core(rule.first, name) for name in first]
    assert {_core(rule.second, name) for name in second} == set(cores)
    assert only_numbers_shared(rule, cores) is refused


def _random_case(generator):
    """Distinct names, with what either folder adds to them: words between marks, common ones on one side at most."""
    words = ["Canon", "Nikon", "img", "scene", "a", "B", "lr", "crop7"]
    size = generator.randint(2, 60)
    shape = generator.choice(["numbers", "words", "mixed"])
    names: set[str] = set()
    while len(names) < size:
        number = str(generator.randint(1, 4 * size))
        word = generator.choice(words)
        names.add(
            {"numbers": number, "words": f"{word}{generator.choice('_- .')}{number}", "mixed": number + word}[shape]
        )

    def affix(own):
        texts = ["ours", "realsr", "ctsr", "v2", "PiSA", "t0.50"] if own else ["lq", "gt", "LR4", "HR", "x4", "out"]
        prefix = generator.choice(["", generator.choice(texts) + generator.choice("_- ")])
        return prefix, generator.choice(["", generator.choice("_-") + generator.choice(texts)])

    sides = [affix(own=True), affix(own=False)]
    generator.shuffle(sides)
    return sorted(names), sides


@pytest.mark.parametrize("seed", range(60))
def test_random_names_are_paired_and_without_a_file_none_is_paired_wrongly(seed):
    generator = random.Random(seed)
    names, sides = _random_case(generator)
    first, second = (_named(names, *side) for side in sides)
    shuffled = generator.sample(second, len(second))
    rule = find_rule(first, shuffled)
    assert _pairs(first, second, rule) == dict(zip(first, second, strict=True)), (first, second, rule)
    assert not only_numbers_shared(rule, names)
    missing = generator.randrange(len(names))
    kept = second[:missing] + second[missing + 1 :]
    expected = dict(zip(first[:missing] + first[missing + 1 :], kept, strict=True))
    for others in (kept, [*kept, "comparison grid"]):
        assert _pairs(first, others, find_rule(first, others)).items() <= expected.items()


def _all_pairings(first, second):
    """Every way to pair all names by taking affixes off, wherever they are cut: an independent, exhaustive search."""
    ways = set()
    one = min(first)
    for begin in range(len(one)):
        for end in range(begin + 1, len(one) + 1):
            before, after = one[:begin], one[end:]
            if not all(n.startswith(before) and n.endswith(after) and len(n) > len(before + after) for n in first):
                continue
            cores = [name[begin : len(name) - len(after)] for name in first]
            for two in second:
                at = two.find(one[begin:end])
                while at >= 0:
                    names = _named(cores, two[:at], two[at + end - begin :])
                    if set(names) == set(second):
                        ways.add(tuple(names))
                    at = two.find(one[begin:end], at + 1)
    return ways


def test_a_rule_that_pairs_all_leaves_no_choice():
    generator = random.Random(0)
    for _ in range(1500):
        draw = lambda least: "".join(generator.choices("ab1_", k=generator.randint(least, 3)))  # noqa: E731
        cores = sorted({draw(1) for _ in range(generator.randint(2, 4))})
        first, second = (_named(cores, draw(0), draw(0)) for _ in range(2))
        ways = _all_pairings(first, second)
        assert len(ways) == 1
        pairs = _pairs(first, second, find_rule(first, second))
        assert len(pairs) < len(cores) or tuple(pairs[name] for name in first) in ways


@pytest.mark.parametrize("suffix", ["", "_of_the_quick-brown-fox_v2_final"])
def test_thousands_of_names_take_no_time(suffix):
    names = _named([f"{number:07d}" for number in range(3000)], "DIV2K_", suffix)
    start = time.process_time()
    rule = find_rule(names, _named(names[:-1], "ours_", "_SRx4"))
    assert time.process_time() - start < 3, "comparing each name with each other takes far longer"
    assert rule == Affixes(second=Affix("ours_", "_SRx4"))


def test_several_results_per_image_are_paired_with_none():
    names = [f"{number:04d}" for number in range(50)]
    several = [f"{name}_t{t / 10:.2f}" for name in names for t in range(11)]
    assert _pairs(several, names, find_rule(several, names)) == {}
