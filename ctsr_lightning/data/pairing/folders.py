"""Pairs of low-quality and ground-truth files: matched by name, checked by number and size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ctsr_lightning.data.files import ImageFile, Skipped, usable_images
from ctsr_lightning.data.pairing.layouts import benchmark_folders, known_layouts
from ctsr_lightning.data.pairing.matching import Affix, Affixes, match_files
from ctsr_lightning.data.sources import check_weight
from ctsr_lightning.images import image_size
from ctsr_lightning.images.index import SizeIndex
from ctsr_lightning.images.listing import named_path
from ctsr_lightning.images.patterns import Patterns

REMEDY: Final = "Add, remove or rename files, or set `lq_prefix`, `lq_suffix`, `gt_prefix`, `gt_suffix`."


@dataclass(frozen=True)
class PairFolder:
    """A folder of low-quality images and the folder of their ground truth, matched by the names of the files.

    Either both folders are named, or the `root` of a benchmark that holds both. Where no prefix or suffix is set,
    partners have the same name, or all names of a folder carry the same prefix or suffix, which is found:
    `Canon_001_LR4.png` and `Canon_001_HR.png`, `0801x4.png` and `0801.png`. What is set is taken off the names before
    they are compared.

    Args:
        lq: Folder of low-quality images.
        gt: Folder of ground truth.
        lq_prefix: Prefix of every low-quality stem.
        lq_suffix: Suffix of every low-quality stem.
        gt_prefix: Prefix of every ground-truth stem.
        gt_suffix: Suffix of every ground-truth stem.
        upsampled: Whether the low-quality images have been enlarged to the ground truth's size already, and must be
            brought back to their native size; null finds out from the sizes.
        root: Folder of a benchmark, in place of `lq` and `gt`, with sub-folders test_LR and test_HR, test_SR_bicubic
            and test_HR, LR and HR, or lq and gt.
        count: How many pairs there have to be, all of them readable; null takes what is there.
        weight: Share of the draws in training, relative to other sources; null weighs as much as its number of pairs.
        include: Patterns of the paths to take, below either folder, such as `*Nikon*`; null takes all.
        exclude: Patterns of those to leave out again.
    """

    lq: str | Path | None = None
    gt: str | Path | None = None
    lq_prefix: str = ""
    lq_suffix: str = ""
    gt_prefix: str = ""
    gt_suffix: str = ""
    upsampled: bool | None = None
    root: str | Path | None = None
    count: int | None = None
    weight: float | None = None
    include: Patterns = None
    exclude: Patterns = None

    def __post_init__(self) -> None:
        named = [name for name in ("lq", "gt", "root") if getattr(self, name) is not None]
        if named not in (["root"], ["lq", "gt"]):
            raise ValueError(
                f"Expected the folders `lq` and `gt` of pairs, or the `root` of a benchmark that holds both, found "
                f"{' and '.join(f'`{name}`' for name in named) or 'none of them'}. Set either `lq` and `gt`, or `root`."
            )
        if self.count is not None and self.count < 1:
            raise ValueError(f"Expected `count` of at least 1, or null, found {self.count}.")
        check_weight(self.weight, self.root or self.gt)

    @property
    def rule(self) -> Affixes | None:
        """Affixes to take off the names; None to find them."""
        rule = Affixes(Affix(self.lq_prefix, self.lq_suffix), Affix(self.gt_prefix, self.gt_suffix))
        return rule if rule != Affixes() else None

    def folders(self) -> tuple[Path, Path]:
        """The folders of low-quality images and of ground truth.

        Raises:
            FileNotFoundError: If there is no benchmark at `root`.
            ValueError: If `root` has ground truth under several names.
        """
        if self.root is None:
            assert self.lq is not None
            assert self.gt is not None
            return named_path(self.lq), named_path(self.gt)
        lq, gt = benchmark_folders(self.root)
        if lq is None:
            raise FileNotFoundError(
                f"Expected low-quality images beside the ground truth '{gt.name}' in '{self.root}', found none. The "
                f"known names of the folders are {known_layouts()}; other ones are set by `lq` and `gt`."
            )
        return lq, gt


@dataclass(frozen=True)
class PairFiles:
    """A low-quality file and its ground truth."""

    lq: ImageFile
    """The low-quality image."""
    gt: ImageFile
    """The ground truth."""
    upsampled: bool
    """Whether the low-quality image has the ground truth's size."""

    def native_size(self, scale: int) -> tuple[int, int]:
        """Height and width of the low-quality image at its native size."""
        divisor = scale if self.upsampled else 1
        return self.lq.height // divisor, self.lq.width // divisor


def find_pairs(
    folder: PairFolder,
    scale: int,
    least: int,
    skipped: Skipped,
    notes: list[str] | None = None,
    index: SizeIndex | None = None,
) -> list[PairFiles]:
    """Match the files of two folders and keep the pairs that can be used.

    Args:
        folder: The two folders and how their files are named.
        scale: Ratio of the ground truth's size to the native low-quality size.
        least: Least height and width of the ground truth in pixels.
        skipped: Where pairs with an unreadable or too small file are written down.
        notes: Where it is written down which prefixes and suffixes were found in the names.
        index: Knows or reads the sizes; None reads them.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If a file has no partner, their number is not the one expected, or sizes contradict the scale.
    """
    lq_root, gt_root = folder.folders()
    lq_size, gt_size = (image_size if index is None else partial(index.size, root) for root in (lq_root, gt_root))
    matched = match_files(lq_root, gt_root, folder.rule, remedy=REMEDY, include=folder.include, exclude=folder.exclude)
    if folder.count is not None and len(matched.pairs) != folder.count:
        few = len(matched.pairs) < folder.count
        raise ValueError(
            f"Expected {folder.count} pairs in '{folder.root or folder.gt}', found {len(matched.pairs)}, "
            f"{'likely an incomplete download' if few else 'so files of something else are among them'}. "
            "Get the set anew, or correct `count`."
        )
    if folder.rule is None and notes is not None and matched.rule != Affixes():
        carried = matched.rule.describe("low-quality names", "ground-truth names")
        notes.append(f"{carried}; that is taken off to match '{lq_root}' with '{gt_root}'.")
    skipped.total += len(matched.absent)
    skipped.reasons |= matched.absent
    pairs = []
    for key, (lq_path, gt_path) in matched.pairs.items():
        lq_usable = usable_images([(key, lq_path)], 1, skipped, lq_size)
        gt_usable = usable_images([(key, gt_path)], least, skipped, gt_size)
        if lq_usable and gt_usable:
            pairs.append(_checked(folder, lq_usable[0], gt_usable[0], scale))
    return pairs


def require_whole(folder: PairFolder, skipped: Skipped) -> None:
    """Refuse a folder with a known number of pairs where some of them were left out.

    Args:
        folder: The two folders.
        skipped: The files left out, of this folder and others.

    Raises:
        ValueError: If `count` is set and a file was left out.
    """
    if folder.count is None:
        return
    roots = folder.folders()
    lost = {p: why for p, why in skipped.reasons.items() if any(p.is_relative_to(root) for root in roots)}
    if lost:
        message = Skipped(2 * folder.count, lost).message("files")
        raise ValueError(
            f"Expected all {folder.count} pairs in '{folder.root or folder.gt}' to be usable, as `count` says. "
            f"{message} Get these files anew, or leave `count` out to go on without them."
        )


def _checked(folder: PairFolder, lq: ImageFile, gt: ImageFile, scale: int) -> PairFiles:
    """Decide from the sizes whether the low-quality image is native or upsampled, and refuse anything else."""
    same = (lq.height, lq.width) == (gt.height, gt.width)
    # Ground truth that is no multiple of the scale is cut at the right and bottom, as it was when the pair was made.
    native = (lq.height, lq.width) == (gt.height // scale, gt.width // scale)
    found = f"'{lq.path.name}' of {lq.width}x{lq.height} with '{gt.path.name}' of {gt.width}x{gt.height} pixels"
    if not (native or same):
        raise ValueError(
            f"Expected low-quality images of 1/{scale} of the ground truth's size (scale {scale}), or of the same size "
            f"(upsampled), found {found}. Set the `scale` that the pairs were made with."
        )
    upsampled = same and not native
    if folder.upsampled is not None and folder.upsampled != upsampled and scale > 1:
        expected = "as large as" if folder.upsampled else f"1/{scale} the size of"
        raise ValueError(
            f"Expected low-quality images {expected} the ground truth, as `upsampled: {str(folder.upsampled).lower()}` "
            f"and scale {scale} say, found {found}. Leave `upsampled` out, or correct the folder or the scale."
        )
    return PairFiles(lq, gt, upsampled)
