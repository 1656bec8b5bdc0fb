"""Pairs of low-quality and ground-truth files: matched by stem, checked by size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctsr_lightning.data.files import ImageFile, Skipped, relative_stem, usable_images
from ctsr_lightning.images import list_images


@dataclass(frozen=True)
class PairFolder:
    """A folder of low-quality images and the folder of their ground truth, matched by file stem.

    Prefixes and suffixes are taken off the stems before they are compared: `gt_suffix: _HR` and `lq_suffix: _LR4` match
    `Canon_001_HR.png` with `Canon_001_LR4.png`.

    Args:
        lq: Folder of low-quality images.
        gt: Folder of ground truth.
        lq_prefix: What every low-quality stem starts with.
        lq_suffix: What every low-quality stem ends with.
        gt_prefix: What every ground-truth stem starts with.
        gt_suffix: What every ground-truth stem ends with.
        upsampled: Whether the low-quality images have been enlarged to the ground truth's size already, and must be
            brought back to their native size; null finds out from the sizes.
    """

    lq: str | Path
    gt: str | Path
    lq_prefix: str = ""
    lq_suffix: str = ""
    gt_prefix: str = ""
    gt_suffix: str = ""
    upsampled: bool | None = None


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


def find_pairs(folder: PairFolder, scale: int, least: int, skipped: Skipped) -> list[PairFiles]:
    """Match the files of two folders and keep the pairs that can be used.

    Args:
        folder: The two folders and how their files are named.
        scale: Ratio of the ground truth's size to the native low-quality size.
        least: Least height and width of the ground truth in pixels.
        skipped: Where pairs with an unreadable or too small file are written down.

    Raises:
        FileNotFoundError: If a folder does not exist or holds no image.
        ValueError: If a file has no partner, or sizes contradict the scale.
    """
    lq = _by_stem(folder.lq, folder.lq_prefix, folder.lq_suffix)
    gt = _by_stem(folder.gt, folder.gt_prefix, folder.gt_suffix)
    _require_partners(folder, lq, gt)
    pairs = []
    for stem, gt_path in gt.items():
        lq_usable = usable_images([(stem, lq[stem])], 1, skipped)
        gt_usable = usable_images([(stem, gt_path)], least, skipped)
        if lq_usable and gt_usable:
            pairs.append(_checked(folder, lq_usable[0], gt_usable[0], scale))
    return pairs


def _by_stem(folder: str | Path, prefix: str, suffix: str) -> dict[str, Path]:
    """Files by path below the folder, without suffix and without the prefix and suffix of their names."""
    root = Path(folder).expanduser()
    found: dict[str, Path] = {}
    for path in list_images(root):
        stem = relative_stem(root, path)
        parent, _, name = stem.rpartition("/")
        name = name.removeprefix(prefix).removesuffix(suffix)
        key = f"{parent}/{name}" if parent else name
        if key in found:
            raise ValueError(f"Expected one image per stem in '{root}', found '{found[key].name}' and '{path.name}'.")
        found[key] = path
    return found


def _require_partners(folder: PairFolder, lq: dict[str, Path], gt: dict[str, Path]) -> None:
    alone = [f"'{path.name}'" for stem, path in lq.items() if stem not in gt]
    alone += [f"'{path.name}'" for stem, path in gt.items() if stem not in lq]
    if alone:
        shown = ", ".join(alone[:4]) + (f" and {len(alone) - 4} more" if len(alone) > 4 else "")
        raise ValueError(
            f"Expected the same stems in '{folder.lq}' and '{folder.gt}', found {len(alone)} files without a partner: "
            f"{shown}. Add or remove files, or set `lq_prefix`, `lq_suffix`, `gt_prefix`, `gt_suffix`."
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
