"""Which files of a folder are images, and their names."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from ctsr_lightning.images.listing import list_images, named_path, relative_stem


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", ".thumbnails", ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information",
     "a/.cache/b", "a/__pycache__"],
)  # fmt: skip
def test_what_systems_leave_is_no_image(tmp_path: Path, name: str) -> None:
    filled(tmp_path, f"{name}/copy.png", "a/b.PNG", "c.tiff", "._c.tiff", "Thumbs.db", "notes.txt")
    assert listed(tmp_path) == ["a/b.PNG", "c.tiff"]


def test_a_folder_may_be_hidden_if_it_is_named(tmp_path: Path) -> None:
    assert listed(filled(tmp_path / ".photos", "a.png")) == ["a.png"]


def test_folders_named_like_images_are_entered(tmp_path: Path) -> None:
    assert listed(filled(tmp_path, "a.png", "m.png/inner.png")) == ["a.png", "m.png/inner.png"]


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    filled(tmp_path / "other", "x.png", "deep/y.png")
    root = filled(tmp_path / "root", "a.png", "sub/b.png")
    (root / "up").symlink_to(root)
    (root / "sub" / "up").symlink_to(root.parent)
    (root / "again").symlink_to(root / "sub")
    assert listed(root) == ["a.png", "sub/b.png", "sub/up/other/deep/y.png", "sub/up/other/x.png"]
    (root / "sub" / "up").unlink()
    (root / "link").symlink_to(tmp_path / "other")
    assert listed(root) == ["a.png", "link/deep/y.png", "link/x.png", "sub/b.png"]


def test_links_that_lead_nowhere_are_listed(tmp_path: Path) -> None:
    filled(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert listed(tmp_path) == ["a.png", "gone.png", "self.png"]


@pytest.mark.parametrize("empty", ["", " "])
def test_the_empty_text_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.chdir(filled(tmp_path, "a.png"))
    for use in (named_path, list_images):
        with pytest.raises(ValueError, match="Expected a path, found"):
            use(empty)


def test_names_are_composed_and_printable(tmp_path: Path) -> None:
    filled(tmp_path, unicodedata.normalize("NFD", "é") + ".png", os.fsdecode(b"caf\xe9.png"))
    names = [relative_stem(tmp_path, path) for path in list_images(tmp_path)]
    assert sorted(names) == ["caf\\udce9", "é"]
    "".join(names).encode()  # whatever is written with a name in it can be written
