"""Prompts from a cache."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.prompts.base import Prompt


class CachedPrompt(Prompt):
    """Embeddings that `ctsr cache` has kept, found by the image: neither tagger nor text encoder in memory.

    It stands in for the prompt that the cache was made with, and knows the images of the cache only.

    Args:
        folder: The cache's folder.
    """

    _like: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.output_cache = OutputCache(folder)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # follows the module's device and precision

    @property
    def stands_for(self) -> str:
        """The identity of the prompt that the cache was made with."""
        return str(self.output_cache.description()["cache_signature"]["prompt"])

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the image says it all
        """Read the embeddings.

        Raises:
            ValueError: If the cache does not know an image.
        """
        (embedding,) = self.output_cache.read(lq, "prompt")
        return embedding.to(self._like)
