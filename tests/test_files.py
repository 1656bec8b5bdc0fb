"""Files appear as a whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ctsr_lightning.files import file_hash, written_aside


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "new" / "record.json"
    with written_aside(place) as aside:
        assert aside.suffix == ".json"  # image formats are chosen by it
        aside.write_text("{}")
        assert not place.exists()
    assert place.read_text() == "{}"
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong")])
def test_an_interruption_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "record.json"
    place.write_text("old")

    def interrupted() -> None:
        with written_aside(place) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    place = tmp_path / "record.json"
    with pytest.raises(OSError, match=r"No space left on device.*record\.json"), written_aside(place):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_other_errors_keep_their_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write mode F as JPEG"), written_aside(tmp_path / "a.jpg"):
        raise OSError("cannot write mode F as JPEG")  # as Pillow says it


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    place = tmp_path / "record.json"
    with written_aside(place) as first, written_aside(place) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert place.read_text() in {"first", "second"}


def test_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
