"""The index of image sizes: what is read once, and what is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctsr_lightning.images import index as module
from ctsr_lightning.images import write_image
from ctsr_lightning.images.index import SizeIndex, Texts
from helpers.drawn_photos import draw_photo

SIZES = {"a.png": (8, 12), "bad.jpg": (0, 0), "sub/b.png": (16, 8)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images and a file that is none."""
    for name, size in SIZES.items():
        if size[0]:
            write_image(tmp_path / "photos" / name, draw_photo(*size, 1))
    (tmp_path / "photos" / "bad.jpg").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose headers are read."""
    names: list[str] = []
    true = module.header

    def header(path: Path) -> tuple[int, int]:
        names.append(path.name)
        return true(path)

    monkeypatch.setattr(module, "header", header)
    return names


class Kept:
    """An index in a folder, and what it says."""

    def __init__(self, folder: Path, **options: bool) -> None:
        self.said: list[str] = []
        self.index = SizeIndex(folder, self.said.append, **options)

    def sizes(self, root: Path) -> dict[str, tuple[int, ...]]:
        """Sizes by name."""
        names, sizes, _ = self.index.listing(root)
        return dict(zip(names, map(tuple, sizes.tolist()), strict=True))


def test_headers_are_read_once(folder: Path, tmp_path: Path, read: list[str]) -> None:
    first = Kept(tmp_path / "index")
    assert first.sizes(folder) == SIZES
    assert sorted(read) == ["a.png", "b.png", "bad.jpg"]
    assert len(first.said) == 1
    assert "There is no index" in first.said[0]
    assert f"Reading the headers of 3 images below '{folder}'" in first.said[0]
    again = Kept(tmp_path / "index")
    assert again.sizes(folder) == first.sizes(folder) == SIZES
    assert (len(read), again.said) == (3, [])
    assert [path.suffix for path in (tmp_path / "index").iterdir()] == [".npz"], "nothing is left beside it"
    assert sorted(path.name for path in folder.rglob("*")) == ["a.png", "b.png", "bad.jpg", "sub"], "nor in the data"


def test_other_processes_take_the_index_unchecked(folder, tmp_path, read, monkeypatch) -> None:
    Kept(tmp_path / "index").sizes(folder)
    other = Kept(tmp_path / "index", trust=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, "list_names", None)
        patch.setattr(module, "_stamp", None)
        assert other.sizes(folder) == SIZES
    assert len(read) == 3
    alone = Kept(tmp_path / "none", trust=True)
    assert alone.sizes(folder) == SIZES, "where there is none, they read the headers"


def test_new_and_changed_images_alone_are_read(folder: Path, tmp_path: Path, read: list[str]) -> None:
    Kept(tmp_path / "index").sizes(folder)
    read.clear()
    write_image(folder / "new.png", draw_photo(24, 24, 2))
    (folder / "bad.jpg").unlink()
    write_image(folder / "a.png", draw_photo(32, 12, 2))
    later = Kept(tmp_path / "index")
    assert later.sizes(folder) == {"a.png": (32, 12), "new.png": (24, 24), "sub/b.png": (16, 8)}
    assert sorted(read) == ["a.png", "new.png"]
    assert "is out of date. Reading the headers of 2 of 3 images" in later.said[0]
    os.utime(folder / "sub" / "b.png", ns=(1, 1))
    touched = Kept(tmp_path / "index")
    touched.sizes(folder)
    assert read[2:] == ["b.png"]


def test_removed_images_alone_need_no_header(folder: Path, tmp_path: Path, read: list[str]) -> None:
    Kept(tmp_path / "index").sizes(folder)
    (folder / "bad.jpg").unlink()
    later = Kept(tmp_path / "index")
    assert later.sizes(folder) == {"a.png": (8, 12), "sub/b.png": (16, 8)}
    assert (len(read), later.said) == (3, [])
    assert Kept(tmp_path / "index", trust=True).sizes(folder) == later.sizes(folder)


def cut(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def flip(file: Path, _: Path) -> None:
    data = bytearray(file.read_bytes())
    at = data.index(b"sub/b.png")
    data[at] ^= 1
    file.write_bytes(data)


def empty(file: Path, _: Path) -> None:
    file.write_bytes(b"")


def text(file: Path, _: Path) -> None:
    file.write_text("no index")


def other_arrays(file: Path, _: Path) -> None:
    np.savez(file, weights=np.zeros(3))


def short(file: Path, _: Path) -> None:
    with np.load(file) as parts:
        np.savez(file, **{**parts, "sizes": parts["sizes"][:-1]})


def older(file: Path, _: Path) -> None:
    with np.load(file) as parts:
        about = parts["about"].tobytes().replace(b"index 1", b"index 0")
        np.savez(file, **{**parts, "about": np.frombuffer(about, dtype=np.uint8)})


def foreign(file: Path, folder: Path) -> None:
    other = Kept(file.parent)
    write_image(folder.parent / "elsewhere" / "c.png", draw_photo(8, 8, 3))
    other.sizes(folder.parent / "elsewhere")
    place = other.index.file(folder.parent / "elsewhere")
    assert place is not None
    place.replace(file)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut, "it is damaged"),
        (flip, "it is damaged"),
        (empty, "it is damaged"),
        (text, "it is damaged, or no index"),
        (other_arrays, "it is damaged, or no index"),
        (short, "it is damaged"),
        (older, "it is of another version"),
        (foreign, r"it is of another folder, '\S*elsewhere'"),
    ],
)
def test_a_bad_index_is_noticed_and_made_anew(folder, tmp_path, read, harm: Any, reason: str) -> None:
    first = Kept(tmp_path / "index")
    first.sizes(folder)
    file = first.index.file(folder)
    harm(file, folder)
    read.clear()
    trusting = Kept(tmp_path / "index", trust=True)
    assert trusting.index._trusted(folder) is None
    later = Kept(tmp_path / "index")
    assert later.sizes(folder) == SIZES
    assert len(read) == 3
    with pytest.raises(AssertionError, match=f"is made anew: {reason}"):
        raise AssertionError(later.said[0])
    read.clear()
    assert Kept(tmp_path / "index").sizes(folder) == SIZES
    assert read == []


def test_an_interrupted_reading_goes_on(folder, tmp_path, read, monkeypatch) -> None:
    true = module.header

    def stopped(path: Path) -> tuple[int, int]:
        if len(read) == 1:
            raise KeyboardInterrupt
        return true(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "header", stopped)
        with pytest.raises(KeyboardInterrupt):
            Kept(tmp_path / "index").sizes(folder)
    assert read == ["a.png"]
    assert Kept(tmp_path / "index", trust=True).index._trusted(folder) is None, "half an index is not trusted"
    assert Kept(tmp_path / "index").sizes(folder) == SIZES
    assert read == ["a.png", "bad.jpg", "b.png"]


def test_a_place_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    kept = Kept(tmp_path / "index")
    assert kept.sizes(folder) == SIZES
    assert "cannot be written, so that every process reads every header" in kept.said[-1]


def test_empty_files_and_dangling_links_have_no_header(folder: Path, tmp_path: Path, read: list[str]) -> None:
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    assert Kept(tmp_path / "index").sizes(folder) == {**SIZES, "empty.png": (0, 0), "gone.png": (0, 0)}
    assert sorted(read) == ["a.png", "b.png", "bad.jpg"]


def test_texts_are_kept_as_they_are() -> None:
    texts = ["", "é/ü.png", os.fsdecode(b"caf\xe9.png"), "z"]
    packed = Texts.of(texts)
    assert (list(packed), [packed[at] for at in range(4)], packed[-1]) == (texts, texts, "z")
    assert packed.equals(Texts.of(texts))
    assert not Texts.of(["ab", "c"]).equals(Texts.of(["a", "bc"]))
    with pytest.raises(IndexError):
        packed[4]
