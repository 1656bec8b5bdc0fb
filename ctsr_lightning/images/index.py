"""Sizes of the images below a folder: read from their headers, and kept in an index file so that this is done once."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ctsr_lightning.files import written_aside
from ctsr_lightning.images.listing import list_names
from ctsr_lightning.images.reading import UnreadableImageError, image_size

FORMAT: Final = "ctsr-lightning image index 1"
UNREAD: Final = -1
"""In place of a time and a length: the header is still to be read."""
NO_STAMPS: Final[npt.NDArray[np.int64]] = np.zeros((0, 2), dtype=np.int64)
TOLD: Final = 100_000
"""Headers between two lines on how far the reading has come."""


class Texts(Sequence[str]):
    """Texts in one block of bytes: small, and shared with worker processes, which lists of objects are not.

    Args:
        block: The texts one behind the other, as the file system spells them.
        ends: Where each ends in the block.
    """

    def __init__(self, block: bytes, ends: npt.NDArray[np.int64]) -> None:
        self.block = block
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack texts.

        Args:
            texts: The texts.
        """
        parts = [os.fsencode(text) for text in texts]
        return cls(b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def equals(self, other: Texts) -> bool:
        """Whether the texts are the same.

        Args:
            other: Texts to compare with.
        """
        return self.block == other.block and np.array_equal(self.ends, other.ends)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield os.fsdecode(self.block[start:end])
            start = end

    def __getitem__(self, index: int) -> str:  # type: ignore[override] # no slices
        number = range(len(self))[index]
        return os.fsdecode(self.block[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])])


class Listing(NamedTuple):
    """Images below a folder."""

    names: Texts
    """Paths below it, sorted."""
    sizes: npt.NDArray[np.int32]
    """Height and width in pixels, shape (n, 2); 0 where the header cannot be read."""
    stamps: npt.NDArray[np.int64]
    """Time of the last change in nanoseconds and length in bytes, shape (n, 2); 0 of what is no file."""


class SizeIndex:
    """Sizes of images by folder, with an index file for each.

    A file is valid while names, lengths and times of change of all images are those that it holds; else the headers of
    new and changed images are read, and it is written anew. It may lie anywhere but is no part of the data.

    Args:
        folder: Folder of the index files; None keeps none and reads every header.
        say: Prints what is read and why.
        trust: Take a whole index file as valid, unchecked: another process has just checked it.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None], *, trust: bool = False) -> None:
        self.folder = folder
        self.trust = trust
        self._say = say
        self._listings: dict[Path, Listing] = {}
        self._rows: dict[Path, dict[str, int]] = {}

    def listing(self, root: Path) -> Listing:
        """The images below a folder; in memory once they were listed.

        Args:
            root: The folder.

        Raises:
            FileNotFoundError: If the folder does not exist or holds no image.
        """
        if root not in self._listings:
            found = self._trusted(root) if self.trust else None
            self._listings[root] = found or self._checked(root)
        return self._listings[root]

    def size(self, root: Path, path: Path) -> tuple[int, int]:
        """Height and width of an image below a folder.

        Args:
            root: The folder.
            path: The file.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreadableImageError: If the header is not that of an image.
        """
        if self.folder is None:
            return image_size(path)
        names, sizes, _ = self.listing(root)
        if root not in self._rows:
            self._rows[root] = {name: row for row, name in enumerate(names)}
        row = self._rows[root].get(str(path.relative_to(root)))
        height, width = (0, 0) if row is None else sizes[row].tolist()
        return (height, width) if height else image_size(path)

    def file(self, root: Path) -> Path | None:
        """The index file of a folder.

        Args:
            root: The folder.
        """
        if self.folder is None:
            return None
        place = root.resolve()
        digest = hashlib.blake2b(os.fsencode(place), digest_size=6).hexdigest()
        return self.folder / f"{place.name[:40]}-{digest}.npz"

    def _trusted(self, root: Path) -> Listing | None:
        file = self.file(root)
        try:
            index = None if file is None else _read(file, root)
        except (FileNotFoundError, ValueError):
            return None
        return None if index is None or bool((index.stamps == UNREAD).any()) else index

    def _checked(self, root: Path) -> Listing:
        names, file = list_names(root), self.file(root)
        packed = Texts.of(names)
        if file is None:
            return Listing(packed, np.array([header(root / name) for name in names], dtype=np.int32), NO_STAMPS)
        known, why = self._known(file, root)
        flat = (number for name in names for number in _stamp(f"{root}{os.sep}{name}"))
        stamps = np.fromiter(flat, dtype=np.int64, count=2 * len(names)).reshape(-1, 2)
        if known is not None and known.names.equals(packed) and np.array_equal(known.stamps, stamps):
            return known
        sizes, missing = _kept(known, names, stamps)
        if len(missing):
            which = f"{len(missing):,} of {len(names):,}" if known is not None else f"{len(names):,}"
            self._say(f"{why} Reading the headers of {which} images below '{root}'; the index keeps their sizes.")
        done = stamps.copy()
        done[missing] = UNREAD
        try:
            for count, at in enumerate(missing.tolist(), start=1):
                if stamps[at, 1]:  # an empty file has no header
                    sizes[at] = header(root / names[at])
                done[at] = stamps[at]
                if count % TOLD == 0:
                    self._say(f"{count:,} of {len(missing):,} headers below '{root}' are read.")
        finally:  # what was read until Ctrl-C need not be read again
            self._write(file, root, Listing(packed, sizes, done))
        return Listing(packed, sizes, done)

    def _known(self, file: Path, root: Path) -> tuple[Listing | None, str]:
        """The index as it is, and a sentence on it."""
        try:
            return _read(file, root), f"The index '{file}' is out of date."
        except FileNotFoundError:
            return None, f"There is no index '{file}' yet."
        except ValueError as error:
            return None, f"The index '{file}' is made anew: {error}."

    def _write(self, file: Path, root: Path, index: Listing) -> None:
        about = json.dumps({"format": FORMAT, "folder": str(root.resolve())})
        try:
            with written_aside(file) as aside, aside.open("wb") as target:
                np.savez(
                    target,
                    about=np.frombuffer(about.encode(errors="surrogatepass"), dtype=np.uint8),
                    block=np.frombuffer(index.names.block, dtype=np.uint8),
                    ends=index.names.ends,
                    stamps=index.stamps,
                    sizes=index.sizes,
                )
        except OSError as error:
            self._say(f"The index '{file}' cannot be written, so that every process reads every header: {error}.")


def _read(file: Path, root: Path) -> Listing:
    """Read an index file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another format or of another folder.
    """
    try:
        with file.open("rb") as source, np.load(source, allow_pickle=False) as parts:
            about = json.loads(parts["about"].tobytes().decode(errors="surrogatepass"))
            block, ends, stamps, sizes = (parts[name] for name in ("block", "ends", "stamps", "sizes"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError("it is damaged, or no index") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("it is of another version")
    if about.get("folder") != str(root.resolve()):
        raise ValueError(f"it is of another folder, '{about.get('folder')}'")
    count, last = len(ends), int(ends[-1]) if len(ends) else 0
    if stamps.shape != (count, 2) or sizes.shape != (count, 2) or last != len(block):
        raise ValueError("it is damaged")
    return Listing(Texts(block.tobytes(), ends), sizes, stamps)


def _kept(
    known: Listing | None, names: Sequence[str], stamps: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Sizes of the images that have not changed, and the positions of the others."""
    sizes = np.zeros((len(names), 2), dtype=np.int32)
    if known is None:
        return sizes, np.arange(len(names))
    rows = {name: row for row, name in enumerate(known.names)}
    row = np.array([rows.get(name, -1) for name in names], dtype=np.int64)
    same = (row >= 0) & (known.stamps[row] == stamps).all(axis=1)
    sizes[same] = known.sizes[row[same]]
    return sizes, np.flatnonzero(~same)


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - a million times
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def header(path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels; 0 where they cannot be read.

    Args:
        path: The file.
    """
    try:
        return image_size(path)
    except (UnreadableImageError, FileNotFoundError):
        return 0, 0
