"""Datasets of photos to be degraded, of pairs, and of images to restore.

A dataset is indexed by a `Draw`, a training sample whose crop, flip and degradation follow from the draw's seed, or by
a number, an evaluation sample with a fixed crop and a degradation that follows from the dataset's seed and the key.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctsr_lightning.data.boxes import Box
from ctsr_lightning.data.files import ImageCache, ImageFile, PhotoFiles, to_tensor
from ctsr_lightning.data.fitting import fitted
from ctsr_lightning.data.pairing.folders import PairFiles
from ctsr_lightning.data.samplers import Draw, stable_seed
from ctsr_lightning.degradation.operators import usm_sharpen
from ctsr_lightning.degradation.plan import Plan, one_thread
from ctsr_lightning.degradation.recipe import Degradation
from ctsr_lightning.images import Pixels, UnreadableImageError, quantize, resize_bicubic


class Sample(NamedTuple):
    """One image as a dataset gives it; what is None is not known or not made yet."""

    lq: Tensor | None
    """Low-quality image (3, h, w), or None if the plan is still to be applied."""
    gt: Tensor | None
    """Ground truth (3, scale * h, scale * w), or None where there is none."""
    plan: Plan | None
    """How to make lq from gt, where lq is None."""
    key: str
    """Name of the image."""


class RestorationDataset(Dataset[Sample], ABC):
    """Images that a draw or a whole number picks from.

    Args:
        keys: The image names.
        scale: Ratio of the ground truth's size to the low-quality size.
        crop: Side of the square crop in ground-truth pixels, a multiple of the scale; None takes whole images.
        seed: Seed of the evaluation samples.
        repeats: Evaluation samples per image; the first is the centre crop, the others lie elsewhere.
    """

    def __init__(self, keys: Sequence[str], scale: int, crop: int | None, seed: int = 0, repeats: int = 1) -> None:
        self.keys = keys
        self.scale = scale
        self.crop = crop
        self.seed = seed
        self.repeats = repeats
        self._damaged = torch.zeros(len(keys), dtype=torch.bool).share_memory_()  # written by worker processes

    @abstractmethod
    def make(self, index: int, generator: torch.Generator, *, place: bool, flip: bool) -> Sample:
        """Make a sample of one image.

        Args:
            index: Position of the image.
            generator: Source of randomness.
            place: Whether the crop lies at random, not at the centre.
            flip: Whether the image may be mirrored.
        """

    @property
    def replaced(self) -> list[str]:
        """Images that could not be read in training, in whose place others were drawn."""
        return [self.keys[index] for index in self._damaged.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self.keys) * self.repeats

    def __getitem__(self, item: Draw | int) -> Sample:
        with one_thread():
            return self._draw(item) if isinstance(item, Draw) else self._evaluate(item)

    def _evaluate(self, item: int) -> Sample:
        """Make an evaluation sample."""
        if not 0 <= item < len(self):
            raise IndexError(f"Expected an index below {len(self)}, found {item}.")
        index, repeat = divmod(item, self.repeats)
        key = self.keys[index]
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "evaluation", key, repeat))
        sample = self.make(index, generator, place=repeat > 0, flip=False)
        return sample._replace(key=f"{key}_{repeat + 1}") if self.repeats > 1 else sample

    def _draw(self, draw: Draw) -> Sample:
        """Make a training sample; a file that is damaged or gone is named once and the next one taken.

        Raises:
            UnreadableImageError: If no image can be decoded.
        """
        count = len(self.keys)
        for index in ((draw.image + step) % count for step in range(count)):
            if self._damaged[index]:
                continue
            try:
                return self.make(index, torch.Generator().manual_seed(draw.seed), place=True, flip=True)
            except (UnreadableImageError, FileNotFoundError) as error:
                self._damaged[index] = True
                so_far = int(self._damaged.sum())
                warnings.warn(f"{error} Training goes on without it ({so_far} so far).", stacklevel=2)
        raise UnreadableImageError(f"None of the {count} training images can be decoded. Check the files.")

    def _box(self, size: tuple[int, int], crop: int | None, generator: torch.Generator, *, place: bool) -> Box:
        """A crop of an image; without `crop`, all of it."""
        height, width = (crop, crop) if crop is not None else size
        if not place:
            return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)
        top = int(torch.randint(size[0] - height + 1, (), generator=generator))
        left = int(torch.randint(size[1] - width + 1, (), generator=generator))
        return Box(top, left, height, width)


class PhotoDataset(RestorationDataset):
    """Photos, degraded on the fly: crop first, then degrade.

    Args:
        photos: The files.
        cache: Reads them.
        degradation: The recipe.
        scale: Ratio of the ground truth's size to the low-quality size.
        crop: Side of the crop in pixels; None takes whole photos, cut to a multiple of the scale.
        seed: Seed of the evaluation samples.
        repeats: Evaluation samples per photo.
        sharpen: Sharpen the ground truth first (unsharp masking).
        defer: Draw the plan but leave its application to the receiver of the sample.
        min_side: What becomes of photos below the crop; with `skip` there are none.
    """

    def __init__(
        self,
        photos: PhotoFiles,
        cache: ImageCache,
        degradation: Degradation,
        scale: int,
        crop: int | None,
        seed: int = 0,
        repeats: int = 1,
        *,
        sharpen: bool = False,
        defer: bool = False,
        min_side: str = "skip",
    ) -> None:
        super().__init__(photos.keys, scale, crop, seed, repeats)
        self.photos = photos
        self.cache = cache
        self.degradation = degradation
        self.sharpen = sharpen
        self.defer = defer
        self.min_side = min_side

    def make(self, index: int, generator: torch.Generator, *, place: bool, flip: bool) -> Sample:
        """Crop a photo and degrade the crop."""
        photo = self.photos[index]
        pixels = fitted(_pixels(photo, self.cache), self.crop or 1, self.min_side)
        height, width = (side // self.scale * self.scale for side in pixels.shape[:2])
        box = self._box((height, width), self.crop, generator, place=place)
        gt = to_tensor(pixels[box.rows, box.columns])
        if flip and _coin(generator):
            gt = gt.flip(-1)
        if self.sharpen:
            gt = usm_sharpen(gt[None])[0]
        plan = self.degradation.sample(generator, self.scale)
        if self.defer:
            return Sample(None, gt, plan, photo.key)
        return Sample(self.degradation.apply(gt[None], [plan])[0], gt, None, photo.key)


class PairDataset(RestorationDataset):
    """Low-quality images with their ground truth.

    Args:
        pairs: The files.
        cache: Reads them.
        scale: Ratio of the ground truth's size to the native low-quality size.
        crop: Side of the crop in ground-truth pixels; None takes whole images.
        seed: Seed of the evaluation samples.
        repeats: Evaluation samples per pair; more than one needs a crop.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        cache: ImageCache,
        scale: int,
        crop: int | None,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        super().__init__([pair.gt.key for pair in pairs], scale, crop, seed, repeats if crop is not None else 1)
        self.pairs = list(pairs)
        self.cache = cache

    def make(self, index: int, generator: torch.Generator, *, place: bool, flip: bool) -> Sample:
        """Crop both images of a pair at the same place."""
        pair = self.pairs[index]
        size = pair.native_size(self.scale)
        box = self._box(size, None if self.crop is None else self.crop // self.scale, generator, place=place)
        pixels = _pixels(pair.lq, self.cache)
        if pair.upsampled:
            lq = _native(to_tensor(pixels), size, self.scale)[:, box.rows, box.columns]
        else:
            lq = to_tensor(pixels[box.rows, box.columns])
        outer = box.times(self.scale)
        gt = to_tensor(_pixels(pair.gt, self.cache)[outer.rows, outer.columns])
        if flip and _coin(generator):
            lq, gt = lq.flip(-1), gt.flip(-1)
        return Sample(lq.contiguous(), gt, None, pair.gt.key)


class MixedDataset(Dataset[Sample]):
    """Several datasets one after the other, as one.

    Args:
        parts: The datasets, of one scale; those without a weight come first.
        weights: Share of the draws of each, relative to the others; None weighs as much as its number of images.
    """

    def __init__(self, parts: Sequence[RestorationDataset], weights: Sequence[float | None] = ()) -> None:
        self.parts = list(parts)
        self.weights = list(weights) or [None] * len(self.parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    @property
    def groups(self) -> list[tuple[int, float]]:
        """Number of images and weight of what is drawn from one after the other, see `TrainingSampler`."""
        weighted = list(zip((len(part) for part in self.parts), self.weights, strict=True))
        alike = sum(size for size, weight in weighted if weight is None)
        rest = [(size, weight) for size, weight in weighted if weight is not None]
        return [(alike, float(alike)), *rest] if alike else rest

    def replacements(self) -> str:
        """Sentence on the images that could not be read in training; empty if there is none."""
        if not (keys := [key for part in self.parts for key in part.replaced]):
            return ""
        named = ", ".join(keys[:3]) + " ..." * bool(keys[3:])
        count = f"{len(keys)} of {sum(len(part.keys) for part in self.parts)}"
        return f"{count} images could not be read while training, and others were drawn in their place: {named}."

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, item: Draw | int) -> Sample:
        position = item.image if isinstance(item, Draw) else item
        if not 0 <= position < len(self):
            raise IndexError(f"Expected an index below {len(self)}, found {position}.")
        number = bisect_right(self._ends, position)
        inner = position - (self._ends[number - 1] if number else 0)
        return self.parts[number][Draw(inner, item.seed) if isinstance(item, Draw) else inner]


def _pixels(file: ImageFile, cache: ImageCache) -> Pixels:
    """Decode an image whose size was read before, and may have changed since."""
    pixels = cache.pixels(file.path)
    height, width = pixels.shape[:2]
    if (height, width) != (file.height, file.width):
        raise UnreadableImageError(
            f"'{file.path}' has {width}x{height} pixels, and had {file.width}x{file.height} when it was listed."
        )
    return pixels


def _coin(generator: torch.Generator) -> bool:
    return bool(torch.randint(2, (), generator=generator))


def _native(lq: Tensor, size: tuple[int, int], scale: int) -> Tensor:
    """Undo an enlargement: antialiased bicubic, the usual way such images were made from the native ones."""
    whole = lq[:, : size[0] * scale, : size[1] * scale]
    return quantize(resize_bicubic(whole[None], size))[0]
