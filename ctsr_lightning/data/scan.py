"""Splits of a data module and the files of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ctsr_lightning.data.files import ImageCache, Skipped
from ctsr_lightning.data.pairing.folders import PairFolder
from ctsr_lightning.data.sources import PhotoFolder
from ctsr_lightning.data.splits import Files, find_files, hold_out, verified
from ctsr_lightning.images.index import SizeIndex
from ctsr_lightning.images.samples import train_samples, val_samples


@dataclass
class Splits:
    """Files of `train`, `val`, `test` and `predict`, each searched for once.

    Args:
        photos: Folders of photos by split.
        pairs: Folders of pairs by split.
        scale: Ratio of the ground truth's size to the low-quality size.
        least: Least height and width of images by split in pixels.
        val_split: Photos of `train` to hold out where `val` names none.
        cache: Decodes images.
        index: Knows or reads the sizes of training images.
        info: Tells the user something.
        warn: Warns the user.
        remarks: What was left out of each split.
    """

    photos: Mapping[str, list[PhotoFolder]]
    pairs: Mapping[str, list[PairFolder]]
    scale: int
    least: Mapping[str, int]
    val_split: int
    cache: ImageCache
    index: SizeIndex
    info: Callable[[str], None]
    warn: Callable[[str], None]
    remarks: dict[str, str] = field(default_factory=dict)
    _found: dict[str, Files] = field(default_factory=dict)

    def named(self, split: str) -> bool:
        """Whether the user named a folder for a split.

        Args:
            split: Its name.
        """
        return bool(self.photos.get(split) or self.pairs.get(split))

    def files(self, split: str) -> Files:
        """The usable files of a split.

        Args:
            split: Its name.

        Raises:
            FileNotFoundError: If a folder does not exist or holds no image.
            ValueError: If no image of a folder can be used, or pairs do not match.
        """
        if split in self._found:
            return self._found[split]
        from_train = self.named("train") and not self.named("val")
        if split == "val" and from_train:
            self.files("train")
        elif split == "train" and from_train:
            train, held = hold_out(self._search("train"), self.val_split, self.least["val"])
            skipped = Skipped(total=len(held))
            self._found |= {"train": train, "val": verified(held, self.cache, skipped)}
            self._report("val", skipped)
        else:
            self._found[split] = self._search(split)
        return self._found[split]

    def _search(self, split: str) -> Files:
        folders = self.photos.get(split, [])
        if not self.named(split):
            self.info(f"`{split}` names no folder: using the sample photos of scikit-image.")
            folders = [PhotoFolder(path) for path in (train_samples() if split == "train" else val_samples())]
        skipped, training = Skipped(), split == "train"
        files = find_files(
            folders,
            self.pairs.get(split, []),
            self.scale,
            self.least[split],
            self.cache,
            skipped,
            verify=not training,  # evaluation must not meet a damaged file half-way
            index=self.index if training else SizeIndex(None, self.info),
        )
        if not files:
            raise ValueError(
                f"Expected a usable image for `{split}`, found none. {skipped.message('images')} "
                "Name a folder of larger or undamaged images, or choose a smaller crop."
            )
        for note in files.notes:
            self.info(f"`{split}`: {note}")
        self._report(split, skipped)
        return files

    def _report(self, split: str, skipped: Skipped) -> None:
        if skipped.reasons:
            self.remarks[split] = skipped.message("images")
            self.warn(f"`{split}`: {self.remarks[split]}")
