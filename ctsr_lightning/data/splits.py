"""Files of a split: found, checked, and divided into training and held-out ones."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ctsr_lightning.data.files import ImageCache, ImageFile, PhotoFiles, Skipped, decodable, usable_photos
from ctsr_lightning.data.pairing.folders import PairFiles, PairFolder, find_pairs, require_whole
from ctsr_lightning.data.samplers import stable_seed
from ctsr_lightning.data.sources import PhotoFolder
from ctsr_lightning.images.index import SizeIndex, Texts, header
from ctsr_lightning.images.listing import stem, suffix, unique_keys
from ctsr_lightning.images.patterns import selected

NO_PHOTOS = PhotoFiles(Path(), [], [], np.zeros((0, 2), dtype=np.int32))


@dataclass(frozen=True)
class Source:
    """Usable photos, or pairs, of one folder."""

    name: str
    """The folder."""
    photos: PhotoFiles = NO_PHOTOS
    """Photos to be degraded."""
    pairs: Sequence[PairFiles] = ()
    """Low-quality images with their ground truth."""
    weight: float | None = None
    """Share of the draws relative to other sources; None weighs as much as the number of images."""
    min_side: str = "skip"
    """What becomes of photos below the crop."""

    def __len__(self) -> int:
        return len(self.photos) + len(self.pairs)

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        return [pair.gt.key for pair in self.pairs] or self.photos.keys

    def take(self, positions: Sequence[int]) -> Source:
        """The same source with some of its images alone.

        Args:
            positions: Which ones.
        """
        if self.pairs:
            return replace(self, pairs=[self.pairs[at] for at in positions])
        return replace(self, photos=self.photos.subset(positions))


@dataclass
class Files:
    """Usable photos and pairs, by source."""

    sources: list[Source] = field(default_factory=list)
    """The sources, those of photos first; none is empty."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user on how they were found."""

    @property
    def photos(self) -> list[ImageFile]:
        """All photos."""
        return [photo for source in self.sources for photo in source.photos]

    @property
    def pairs(self) -> list[PairFiles]:
        """All pairs."""
        return [pair for source in self.sources for pair in source.pairs]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of photos and of pairs."""
        return sum(len(source.photos) for source in self.sources), sum(len(source.pairs) for source in self.sources)

    @property
    def paths(self) -> set[Path]:
        """All files, as absolute paths without links."""
        return {path.resolve() for path in self._paths()}

    def common(self, others: Files) -> list[Path]:
        """Files that are among others, too, as absolute paths without links, sorted.

        Args:
            others: The others, of which there are few; a link to one of them is found where it has the same name.
        """
        few = others.paths
        names = {path.name for path in (*few, *others._paths())}
        return sorted({path.resolve() for path in self._paths(names)} & few)

    def shares(self) -> dict[str, float]:
        """Share of the draws that each source gets, by its name; empty where no source has a weight."""
        if all(source.weight is None for source in self.sources):
            return {}
        weights = [len(source) if source.weight is None else source.weight for source in self.sources]
        shares: dict[str, float] = {}
        for source, weight in zip(self.sources, weights, strict=True):
            shares[source.name] = shares.get(source.name, 0.0) + weight / sum(weights)
        return shares

    def __len__(self) -> int:
        return sum(self.counts)

    def _paths(self, names: Collection[str] | None = None) -> Iterator[Path]:
        """All files, or those that are called like some: of a large set few become paths, which take time."""
        for source in self.sources:
            for name in source.photos.names:
                if names is None or name.rpartition(os.sep)[2] in names:
                    yield source.photos.root / name
            files = (file.path for pair in source.pairs for file in (pair.lq, pair.gt))
            yield from (path for path in files if names is None or path.name in names)


def find_files(
    photo_folders: Sequence[PhotoFolder],
    pair_folders: Sequence[PairFolder],
    scale: int,
    least: int,
    cache: ImageCache,
    skipped: Skipped,
    *,
    verify: bool,
    index: SizeIndex,
) -> Files:
    """Find the photos and pairs that can be used.

    Args:
        photo_folders: Folders and files of photos.
        pair_folders: Folders of pairs.
        scale: Ratio of the ground truth's size to the low-quality size.
        least: Least height and width of photos and ground truth in pixels.
        cache: Filled with the images if all of them fit.
        skipped: Where the files left out are written down.
        verify: Decode every image even if not all of them fit into the cache, so that no damage is met later.
        index: Knows or reads the sizes.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If files of pairs have no partner, some of an expected number are missing or unusable, sizes
            contradict the scale, a pattern matches nothing, or a source with a weight has no usable image.
    """
    notes: list[str] = []
    listed = [_listed(folder, index) for folder in photo_folders]
    paired = [find_pairs(folder, scale, least, skipped, notes, index) for folder in pair_folders]
    keys = iter(_unique(listed, [pair for pairs in paired for pair in pairs]))
    sources = []
    for folder, photos in zip(photo_folders, listed, strict=True):
        photos.keys = Texts.of(islice(keys, len(photos)))
        usable = usable_photos(photos, least if folder.min_side == "skip" else 1, skipped)
        if small := int((usable.short_sides < least).sum()):
            how = f"{small} of {len(usable)} photos are below {least} pixels, `min_side: {folder.min_side}`"
            notes.append(f"'{folder.folder}': {how}.")
        sources.append(Source(str(folder.folder), usable, weight=folder.weight, min_side=folder.min_side))
    for pair_folder, found in zip(pair_folders, paired, strict=True):
        named = [replace(pair, gt=replace(pair.gt, key=key)) for pair, key in zip(found, keys, strict=False)]
        sources.append(Source(str(pair_folder.root or pair_folder.gt), pairs=named, weight=pair_folder.weight))
    if lost := [source.name for source in sources if source.weight is not None and not len(source)]:
        raise ValueError(
            f"Expected a usable image in every source with a weight, found none in '{lost[0]}': all are unreadable or "
            f"below {least} pixels. Set `min_side: enlarge`, correct the folder, or leave it out."
        )
    files = Files([source for source in sources if len(source)], notes)
    pairs = (pair for source in files.sources for pair in source.pairs)
    images = (photo for source in files.sources for photo in source.photos)
    if verify or cache.fits(chain(images, (file for pair in pairs for file in (pair.lq, pair.gt)))):
        files = verified(files, cache, skipped)
    for pair_folder in pair_folders:
        require_whole(pair_folder, skipped)
    return files


def _listed(folder: PhotoFolder, index: SizeIndex) -> PhotoFiles:
    """The images of a folder that its patterns choose, or a single file; keys are still to come."""
    path = folder.path
    if path.is_file():
        return PhotoFiles(path.parent, [path.name], [path.name], np.array([header(path)], dtype=np.int32))
    listing = index.listing(path)
    photos = PhotoFiles(path, listing.names, listing.names, listing.sizes)
    if folder.include or folder.exclude:
        photos = photos.subset(selected(photos.names, folder.include, folder.exclude, path))
    return photos


def _unique(photos: list[PhotoFiles], pairs: list[PairFiles]) -> list[str]:
    """Keys of photos and pairs: paths below their folders, told apart where they are equal."""
    names = [name for some in photos for name in some.names]
    keys = [stem(name) for name in names] + [pair.gt.key for pair in pairs]
    folders = [some.root for some in photos for _ in range(len(some))] + [pair.gt.path.parent for pair in pairs]
    suffixes = [suffix(name) for name in names] + [pair.gt.path.suffix for pair in pairs]
    return unique_keys(keys, folders, suffixes)


def verified(files: Files, cache: ImageCache, skipped: Skipped) -> Files:
    """Decode every image and keep those that are not damaged.

    Args:
        files: The files.
        cache: Decodes them, and keeps what fits.
        skipped: Where the files left out are written down.
    """
    sources = []
    for source in files.sources:
        images: Sequence[Any] = source.pairs or source.photos
        sides = ([image.lq, image.gt] if source.pairs else [image] for image in images)
        whole = [at for at, some in enumerate(sides) if all(decodable(file, cache, skipped) for file in some)]
        sources.append(source if len(whole) == len(source) else source.take(whole))
    return Files([source for source in sources if len(source)], files.notes)


def hold_out(files: Files, count: int, least: int) -> tuple[Files, Files]:
    """Divide training files into those to train on and some photos, or pairs if there are no photos, to validate on.

    The names alone decide which: another seed, machine or crop size holds out the same ones.

    Args:
        files: All training files.
        count: How many to hold out, at most a fifth of them but at least one; 0 holds out none.
        least: Least height and width of a held-out image in pixels.

    Raises:
        ValueError: If nothing would be left to train or to validate on.
    """
    if count == 0:
        return files, Files()
    photos, pairs = files.counts
    total = photos or pairs
    count = min(count, max(1, total // 5))
    chosen = heapq.nsmallest(count, _hashed(files, least, photos=photos > 0))
    held, rest = [], []
    for number, source in enumerate(files.sources):
        lost = [at for _, which, at in chosen if which == number]
        keys = source.keys
        held.append(source.take(sorted(lost, key=keys.__getitem__)))
        rest.append(source.take(np.delete(np.arange(len(source)), lost).tolist()) if lost else source)
    held, rest = ([source for source in some if len(source)] for some in (held, rest))
    if not held or not rest:
        raise ValueError(
            f"Expected enough images to hold out {count} of at least {least} pixels for validation and to train on the "
            f"others, found {total}. Name a validation folder in `val`, add photos, or set `val_split: 0`."
        )
    return Files(rest, files.notes), Files(held)


def _hashed(files: Files, least: int, *, photos: bool) -> Iterator[tuple[int, int, int]]:
    """A number that follows from the name of each image that is large enough, its source and its position there."""
    for number, source in enumerate(files.sources):
        if photos:
            fit = np.flatnonzero(source.photos.short_sides >= least).tolist()
        else:
            fit = [at for at, pair in enumerate(source.pairs) if min(pair.gt.height, pair.gt.width) >= least]
        keys = source.keys
        yield from ((stable_seed("hold out", keys[at]), number, at) for at in fit)
