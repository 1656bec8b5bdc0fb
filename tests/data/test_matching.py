"""Files of two folders, paired by name."""

import re
from pathlib import Path
from unicodedata import normalize

import pytest

from ctsr_lightning.data.pairing.matching import Affix, Affixes, match_files


def _filled(folder, names):
    """A folder of files that are looked at by name only."""
    for name in names:
        path = folder / (name if Path(name).suffix in {".png", ".jpg"} else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _names(matched):
    return {key: (one.name, two.name) for key, (one, two) in matched.pairs.items()}


def test_equal_names_need_no_rule(tmp_path):
    one = _filled(tmp_path / "one", ["b.jpg", "a", ".hidden.png"])
    two = _filled(tmp_path / "two", ["a", "b"])
    matched = match_files(str(one), two)
    assert _names(matched) == {"a": ("a.png", "a.png"), "b": ("b.jpg", "b.png")}
    assert matched.pairs["a"] == (one / "a.png", two / "a.png")
    assert matched.rule == Affixes()


def test_keys_are_what_paths_share(tmp_path):
    one = _filled(tmp_path / "one", ["x/Canon_001_LR4", "x/deep/Nikon_001_LR4", "Canon_001_LR4"])
    two = _filled(tmp_path / "two", ["x/realsr_Canon_001", "x/deep/realsr_Nikon_001", "realsr_Canon_001"])
    matched = match_files(one, two)
    assert set(matched.pairs) == {"x/Canon_001", "x/deep/Nikon_001", "Canon_001"}
    for first, second in matched.pairs.values():
        assert first.parent.relative_to(one) == second.parent.relative_to(two)
    assert matched.rule == Affixes(Affix("", "_LR4"), Affix("realsr_", ""))


def test_dots_belong_to_names(tmp_path):
    one = _filled(tmp_path / "one", ["0801_t0.50.png", "0802_t0.50.png"])
    two = _filled(tmp_path / "two", ["0802.png", "0801.png"])
    assert set(match_files(one, two).pairs) == {"0801", "0802"}


@pytest.mark.parametrize(
    ("one", "two", "found", "alone"),
    [
        (["1", "2", "3"], ["1", "3"], "2 pairs and 1 file", r"'2.png' in \S*one\. "),
        (["a_LR4", "b_LR4"], ["a", "b", "c"], r"2 pairs, where the names in '\S*one' carry the suffix '_LR4', and 1 f",
         r"'c.png' in \S*two\. "),
        (["b_x", "c_x", "grid"], ["a", "b", "c"], "0 pairs and 6 files",
         r"'b_x.png', 'c_x.png', 'grid.png' in \S*one; .* in \S*two\. "),
        (list("abcdef"), list("uvwxyz"), "0 pairs and 12 files", r"'a.png', 'b.png', 'c.png', 'd.png' and 2 more in"),
        (["sub/a", "b"], ["a", "b"], "1 pair and 2 files", r"'sub/a.png' in \S*one; 'a.png' in \S*two\. "),
        ([f"img{i}" for i in range(1, 4)], [f"img1{i}" for i in range(1, 4)], "0 pairs and 6 files", "'img1.png'"),
    ],
)  # fmt: skip
def test_files_without_a_partner_are_named(tmp_path, one, two, found, alone):
    message = rf"{found}.* without a partner: {alone}.*"
    with pytest.raises(ValueError, match=message) as error:
        match_files(_filled(tmp_path / "one", one), _filled(tmp_path / "two", two), remedy="Do this.")
    assert str(error.value).endswith(" Do this.")
    assert str(error.value).startswith(f"Expected a partner for each of the {len(one)} files in ")


def test_each_missing_file_of_many_is_the_one_named(tmp_path):
    names = [f"{camera}_{number:03d}" for camera in ("Canon", "Nikon") for number in range(1, 31)]
    one = _filled(tmp_path / "one", [f"{name}_LR4" for name in names])
    two = _filled(tmp_path / "two", [f"realsr_{name}_LR4" for name in names])
    for name in names[::7]:
        path = two / f"realsr_{name}_LR4.png"
        path.unlink()
        with pytest.raises(ValueError, match=rf"59 pairs, .* and 1 file without a partner: '{name}_LR4.png' in"):
            match_files(one, two)
        path.touch()
    assert len(match_files(one, two).pairs) == 60


def test_numbers_alone_are_refused_until_the_user_says_so(tmp_path):
    one = _filled(tmp_path / "one", ["Canon_001", "Canon_002"])
    two = _filled(tmp_path / "two", ["Nikon_001", "Nikon_002"])
    with pytest.raises(
        ValueError, match=r"nothing but numbers in common, which would pair 'Canon_001.png' with 'Nikon_001.png'"
    ):
        match_files(one, two)
    assert set(match_files(one, two, Affixes(Affix("Canon_"), Affix("Nikon_"))).pairs) == {"001", "002"}


def test_a_rule_that_is_given_is_the_only_one(tmp_path):
    one = _filled(tmp_path / "one", ["cam_a_LR4", "b_LR4"])
    two = _filled(tmp_path / "two", ["a", "b_HR"])
    rule = Affixes(Affix("cam_", "_LR4"), Affix("", "_HR"))
    assert _names(match_files(one, two, rule)) == {"a": ("cam_a_LR4.png", "a.png"), "b": ("b_LR4.png", "b_HR.png")}
    with pytest.raises(ValueError, match="0 pairs and 4 files"):
        match_files(one, two, Affixes())
    with pytest.raises(
        ValueError, match=r"1 pair, where the names in '\S*one' carry the suffix '_LR4', .* and 2 files"
    ):
        match_files(one, two, Affixes(Affix("", "_LR4"), Affix("", "_HR")))


def test_two_files_of_one_stem_are_refused(tmp_path):
    one = _filled(tmp_path / "one", ["a.png", "a.jpg", "b"])
    two = _filled(tmp_path / "two", ["a", "b"])
    for folders in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"one image per stem in '\S*one', found 'a.jpg' and 'a.png'. Remove or"):
            match_files(*folders)
    three = _filled(tmp_path / "three", ["a", "a_HR", "b"])
    with pytest.raises(ValueError, match=r"one image per stem in '\S*three', found 'a.png' and 'a_HR.png'"):
        match_files(two, three, Affixes(second=Affix("", "_HR")))


def test_folders_that_cannot_be_matched_are_refused(tmp_path):
    full = _filled(tmp_path / "full", ["a"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(full)
    for folder, message in (("missing", "found nothing"), ("empty", "found none"), ("full/a.png", "found a file")):
        with pytest.raises(FileNotFoundError, match=f"{re.escape(str(tmp_path / folder))}.*{message}"):
            match_files(full, tmp_path / folder)
        with pytest.raises(FileNotFoundError, match=message):
            match_files(tmp_path / folder, full)
    for same in (full, tmp_path / "link", tmp_path / "empty" / ".." / "full"):
        with pytest.raises(ValueError, match=r"Expected two folders .*, found '.*' twice"):
            match_files(full, same)


def test_names_that_are_composed_differently_are_equal(tmp_path):
    names = ["é1", "ü2", "e3"]
    one = _filled(tmp_path / "one", [normalize("NFC", name) for name in names])
    two = _filled(tmp_path / "two", [normalize("NFD", name) for name in names])
    assert set(match_files(one, two).pairs) == set(names)
    marked = _filled(tmp_path / "marked", [normalize("NFD", f"gté_{name}") for name in names])
    assert set(match_files(one, marked, Affixes(second=Affix(normalize("NFC", "gté_")))).pairs) == set(names)


def test_links_that_lead_nowhere_are_left_out_and_named(tmp_path):
    one, two = _filled(tmp_path / "one", ["a", "b"]), _filled(tmp_path / "two", ["a", "b"])
    (one / "stray.png").symlink_to(tmp_path / "nowhere")
    matched = match_files(one, two)
    assert set(matched.pairs) == {"a", "b"}
    assert matched.absent == {one / "stray.png": "a link that leads nowhere"}
    (two / "b.png").unlink()
    (two / "b.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"1 file without a partner: 'b.png' in .*one\..* '.*b.png' is a link"):
        match_files(one, two)
    for path in (two / "a.png", two / "b.png"):
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="0 pairs"):
        match_files(one, two)
