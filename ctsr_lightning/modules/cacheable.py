"""Trainings whose frozen networks can be run beforehand."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.modules.base import RestorationModule


class CacheableTraining(RestorationModule):
    """A training whose frozen networks see its low-quality images alone, so that their outputs can be cached.

    Args:
        cache: A folder that `ctsr cache` has filled with the outputs of the frozen networks for the training images;
            null runs them in every step. The data needs a `pool`.
        **kwargs: Optimizer and scheduler.
    """

    def __init__(self, cache: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_cache = None if cache is None else OutputCache(cache)

    @property
    @abstractmethod
    def frozen_networks(self) -> dict[str, nn.Module]:
        """The frozen networks, by their place in the configuration; empty if there are none."""

    @abstractmethod
    def cached_names(self, split: Literal["train", "val"], *, pictures: bool) -> list[str]:
        """Names of the outputs per image that are worth caching.

        Args:
            split: Whether it is trained on or shown in validation.
            pictures: Whether restorations of training images are kept that the training itself does not read.
        """

    @abstractmethod
    def frozen_outputs(
        self, lq: Tensor, keys: list[str] | None = None, split: Literal["train", "val"] = "train"
    ) -> Any:
        """Outputs of the frozen networks for images, by name; at least `cached_names` of the split.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
            split: Whether they are trained on or shown in validation.

        Returns:
            Tensors by name, the first dimension that of the batch; pictures in [0, 1].
        """

    @abstractmethod
    def cache_signature(self) -> dict[str, str]:
        """Identity of the networks and settings that `frozen_outputs` depends on, by name."""

    def setup(self, stage: str) -> None:
        """Refuse a cache of other networks.

        Raises:
            FileNotFoundError: If there is no cache in the folder.
            ValueError: If the networks, or what they compute, are not those of the cache.
        """
        super().setup(stage)
        if self.output_cache is not None and stage == "fit":
            self.output_cache.check(self.cache_signature())
