"""Prompt embeddings behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ctsr_lightning.networks.pretrained import find_weights


class Prompt(nn.Module, ABC):
    """The source of the prompt embedding c."""

    @abstractmethod
    def forward(self, lq: Tensor) -> Tensor | None:
        """Embed the prompts of a batch.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).

        Returns:
            Embeddings of shape (B, L, D), or None for networks without cross-attention.
        """


class NoPrompt(Prompt):
    """No prompt at all, for networks without cross-attention."""

    def forward(self, lq: Tensor) -> None:
        """Answer None."""


class FixedPrompt(Prompt):
    """One embedding, computed once and read from a file: no text encoder in memory.

    Args:
        path: A safetensors file with one tensor `embedding` of shape (L, D) or (1, L, D).

    Raises:
        ValueError: If the file holds no such tensor.
    """

    embedding: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        tensors = load_file(find_weights(path))
        if "embedding" not in tensors or tensors["embedding"].dim() not in {2, 3}:
            raise ValueError(
                f"Expected a tensor 'embedding' of shape (L, D) in '{path}', found "
                f"{ {k: tuple(v.shape) for k, v in tensors.items()} }. Write one with a text encoder."
            )
        self.register_buffer("embedding", tensors["embedding"].reshape(1, *tensors["embedding"].shape[-2:]), False)

    def forward(self, lq: Tensor) -> Tensor:
        """Repeat the embedding for every image."""
        return self.embedding.expand(lq.shape[0], -1, -1)


class TextPrompt(Prompt):
    """A fixed text, embedded once by a CLIP text encoder that is then let go.

    Args:
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        text: The prompt; empty is a valid prompt.

    Raises:
        FileNotFoundError: If tokenizer or encoder cannot be loaded.
    """

    embedding: Tensor

    def __init__(self, path: str, text: str = "") -> None:
        super().__init__()
        from transformers import CLIPTextModel, CLIPTokenizer

        try:
            tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")
            encoder = CLIPTextModel.from_pretrained(path, subfolder="text_encoder").eval()
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"Could not load a CLIP tokenizer and text encoder from '{path}': {str(error).splitlines()[0]} "
                "Give a local folder in diffusers' layout, or a hub id that can be reached from here."
            ) from error
        tokens = tokenizer(
            text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            self.register_buffer("embedding", encoder(tokens.input_ids)[0], False)

    def forward(self, lq: Tensor) -> Tensor:
        """Repeat the embedding for every image."""
        return self.embedding.expand(lq.shape[0], -1, -1)
