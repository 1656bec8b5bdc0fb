"""Trainings whose frozen networks can be asked beforehand."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ctsr_lightning.cache.store import Answers
from ctsr_lightning.modules.base import RestorationModule


class AskingModule(RestorationModule):
    """A training that asks frozen networks about its low-quality images alone, so that their answers can be kept.

    Args:
        cache: A folder that `ctsr cache` has filled with what the frozen networks say about the training images; null
            asks them in every step. The data needs a `pool`.
        **kwargs: Optimizer and scheduler.
    """

    def __init__(self, cache: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answers = None if cache is None else Answers(cache)

    @property
    @abstractmethod
    def asked(self) -> dict[str, nn.Module]:
        """The networks that are asked, by their place in the configuration; empty if there is nothing to ask."""

    @abstractmethod
    def record(self, split: Literal["train", "val"], *, pictures: bool) -> list[str]:
        """Names of the answers about an image that are worth keeping.

        Args:
            split: Whether it is trained on or shown in validation.
            pictures: Whether restorations of training images are kept that the training itself does not read.
        """

    @abstractmethod
    def ask(self, lq: Tensor, keys: list[str] | None = None, split: Literal["train", "val"] = "train") -> Any:
        """What the frozen networks have to say about images, by name; at least `record` of the split.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
            split: Whether they are trained on or shown in validation.

        Returns:
            Tensors by name, the first dimension that of the batch; pictures in [0, 1].
        """

    @abstractmethod
    def made_with(self) -> dict[str, str]:
        """What the answers of `ask` depend on, by name."""

    def setup(self, stage: str) -> None:
        """Refuse a cache that other networks have answered for.

        Raises:
            FileNotFoundError: If there is no cache in the folder.
            ValueError: If the networks, or what they are asked for, are not those of the cache.
        """
        super().setup(stage)
        if self.answers is not None and stage == "fit":
            self.answers.check(self.made_with())
