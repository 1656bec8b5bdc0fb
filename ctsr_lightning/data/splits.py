"""Files of a split: found, checked, and divided into training and held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ctsr_lightning.data.files import ImageCache, ImageFile, Skipped, decodable, usable_images
from ctsr_lightning.data.pairing.folders import PairFiles, PairFolder, find_pairs, require_whole
from ctsr_lightning.data.samplers import stable_seed
from ctsr_lightning.images.listing import find_images, unique_keys


@dataclass
class Files:
    """Usable photos and pairs."""

    photos: list[ImageFile] = field(default_factory=list)
    """Photos to be degraded."""
    pairs: list[PairFiles] = field(default_factory=list)
    """Low-quality images with their ground truth."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user on how they were found."""

    @property
    def paths(self) -> set[Path]:
        """All files, as absolute paths."""
        files = [*self.photos, *(pair.lq for pair in self.pairs), *(pair.gt for pair in self.pairs)]
        return {file.path.resolve() for file in files}

    def __len__(self) -> int:
        return len(self.photos) + len(self.pairs)


def find_files(
    sources: Sequence[str | Path],
    folders: Sequence[PairFolder],
    scale: int,
    least: int,
    cache: ImageCache,
    skipped: Skipped,
    *,
    verify: bool,
) -> Files:
    """Find the photos and pairs that can be used.

    Args:
        sources: Folders and files of photos.
        folders: Folders of pairs.
        scale: Ratio of the ground truth's size to the low-quality size.
        least: Least height and width of photos and ground truth in pixels.
        cache: Filled with the images if all of them fit.
        skipped: Where the files left out are written down.
        verify: Decode every image even if not all of them fit into the cache, so that no damage is met later.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If files of pairs have no partner, some of an expected number are missing or unusable, or sizes
            contradict the scale.
    """
    photos = usable_images(find_images(sources), least, skipped)
    notes: list[str] = []
    pairs = [pair for folder in folders for pair in find_pairs(folder, scale, least, skipped, notes)]
    files = _named_apart(Files(photos, pairs))
    if verify or cache.fits([*photos, *(pair.lq for pair in pairs), *(pair.gt for pair in pairs)]):
        files = verified(files, cache, skipped)
    for folder in folders:
        require_whole(folder, skipped)
    return replace(files, notes=notes)


def _named_apart(files: Files) -> Files:
    """Give pairs of several folders, and pairs beside photos, keys of their own."""
    images = [*files.photos, *(pair.gt for pair in files.pairs)]
    paths = [image.path for image in images]
    keys = unique_keys([image.key for image in images], [path.parent for path in paths], paths)
    renamed = [replace(image, key=key) for image, key in zip(images, keys, strict=True)]
    count = len(files.photos)
    pairs = [replace(pair, gt=gt) for pair, gt in zip(files.pairs, renamed[count:], strict=True)]
    return Files(renamed[:count], pairs)


def verified(files: Files, cache: ImageCache, skipped: Skipped) -> Files:
    """Decode every image and keep those that are not damaged.

    Args:
        files: The files.
        cache: Decodes them, and keeps what fits.
        skipped: Where the files left out are written down.
    """
    photos = [file for file in files.photos if decodable(file, cache, skipped)]
    pairs = [p for p in files.pairs if decodable(p.lq, cache, skipped) and decodable(p.gt, cache, skipped)]
    return Files(photos, pairs)


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
    total = len(files.photos or files.pairs)
    count = min(count, max(1, total // 5))
    if files.photos:
        fit = [photo for photo in files.photos if min(photo.height, photo.width) >= least]
        photos = sorted(fit, key=lambda photo: stable_seed("hold out", photo.key))[:count]
        held = Files(photos=sorted(photos, key=lambda photo: photo.key))
        rest = Files([photo for photo in files.photos if photo not in held.photos], files.pairs)
    else:
        chosen = [pair for pair in files.pairs if min(pair.gt.height, pair.gt.width) >= least]
        pairs = sorted(chosen, key=lambda pair: stable_seed("hold out", pair.gt.key))[:count]
        held = Files(pairs=sorted(pairs, key=lambda pair: pair.gt.key))
        rest = Files([], [pair for pair in files.pairs if pair not in held.pairs])
    if not held or not rest:
        raise ValueError(
            f"Expected enough images to hold out {count} of at least {least} pixels for validation and to train on the "
            f"others, found {total}. Name a validation folder in `val`, add photos, or set `val_split: 0`."
        )
    return rest, held
