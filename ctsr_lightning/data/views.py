"""Datasets without ground truth, and samples kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from ctsr_lightning.data.datasets import Sample
from ctsr_lightning.data.files import ImageCache, ImageFile, to_tensor
from ctsr_lightning.data.samplers import Draw


class LowQualityDataset(Dataset[Sample]):
    """Images to restore, whole, without ground truth.

    Args:
        images: The files.
        cache: Reads them.
    """

    def __init__(self, images: Sequence[ImageFile], cache: ImageCache) -> None:
        self.images = list(images)
        self.cache = cache

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        return Sample(to_tensor(self.cache.pixels(image.path)), None, None, image.key)


class WithoutTruth(Dataset[Sample]):
    """The low-quality images of a dataset, as if their ground truth were not known.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return length(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]._replace(gt=None)


class Remembered(Dataset[Sample]):
    """A dataset whose training samples are made once and then kept in memory.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset
        self._samples: dict[Draw, Sample] = {}

    def __len__(self) -> int:
        return length(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample:
        if draw not in self._samples:
            self._samples[draw] = self.dataset[draw]
        return self._samples[draw]


def length(dataset: Dataset[Sample]) -> int:
    """Number of samples of a dataset that has one, as all of this package have."""
    return len(dataset)  # type: ignore[arg-type]
