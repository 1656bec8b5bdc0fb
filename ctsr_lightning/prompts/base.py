"""Prompt embeddings behind one interface: none, fixed, by caption file, by an image tagger, or of a cache."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from ctsr_lightning.prompts.captions import find_caption, read_captions
from ctsr_lightning.prompts.taggers import ImageTagger, check_template, tagged_texts
from ctsr_lightning.prompts.text_embeddings import TextEmbeddings
from ctsr_lightning.weights.reading import read_file
from ctsr_lightning.weights.search import find_weights


class Prompt(nn.Module, ABC):
    """Source of the prompt embedding c."""

    varies: bool = True
    """Whether the embedding differs from image to image."""

    @abstractmethod
    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor | None:
        """Embed the prompts of a batch.

        Args:
            lq: Low-quality images in [0, 1], shape (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, where the caller has them.

        Returns:
            Embeddings of shape (B, L, D), or None for networks without cross-attention.
        """


class NoPrompt(Prompt):
    """No prompt at all, for networks without cross-attention."""

    varies = False

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> None:
        """None."""


class _SamePrompt(Prompt):
    """One embedding for every image.

    Args:
        embedding: The embedding, shape (L, D).
    """

    varies = False
    embedding: Tensor

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding[None], persistent=False)

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Repeat the embedding for every image."""
        return self.embedding.expand(lq.shape[0], -1, -1)


class FixedPrompt(_SamePrompt):
    """One embedding, computed once and read from a file: no text encoder in memory.

    Args:
        path: A safetensors file with one tensor `embedding` of shape (L, D) or (1, L, D), such as a cache's.

    Raises:
        ValueError: If the file holds no such tensor.
    """

    def __init__(self, path: Path) -> None:
        tensors: dict[str, Tensor] = read_file(find_weights(path), "a safetensors file with a tensor 'embedding'")
        if "embedding" not in tensors or tensors["embedding"].dim() not in {2, 3}:
            raise ValueError(
                f"Expected a tensor 'embedding' of shape (L, D) in '{path}', found "
                f"{ {k: tuple(v.shape) for k, v in tensors.items()} }. Write one with a text encoder."
            )
        super().__init__(tensors["embedding"].reshape(tensors["embedding"].shape[-2:]))


class TextPrompt(_SamePrompt):
    """A fixed text, embedded once by a CLIP text encoder that is then let go.

    Args:
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        text: The prompt; empty is a valid prompt.
        cache: A folder that keeps the embedding, so that the encoder is loaded once only; null keeps nothing.

    Raises:
        FileNotFoundError: If there are no tokenizer and encoder in reach.
    """

    def __init__(self, path: str, text: str = "", cache: Path | None = None) -> None:
        super().__init__(TextEmbeddings(path, cache)([text])[0])


class CaptionPrompt(Prompt):
    """A text for each image, from a file; embedded once, then read from the disk as images come.

    A key without a text is an error, because a caption file that does not match the images would otherwise go
    unnoticed; so is a call without keys. With `fallback` both are a warning, once. Repetitions of an image (`photo_2`)
    have its text.

    Args:
        captions: A JSON object from image to text, or lines of `image<TAB>text`. An image is named by its key, the path
            below its folder with forward slashes, with or without suffix.
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        cache: The folder that keeps the embeddings: 0.3 MB for each text of Stable Diffusion 2.
        fallback: The text of images that the file does not name, and that a model trained with texts is worse with;
            null refuses them.

    Raises:
        FileNotFoundError: If the captions, or tokenizer and encoder, are not there.
        ValueError: If the caption file cannot be read.
    """

    _like: Tensor

    def __init__(self, captions: Path, path: str, cache: Path, fallback: str | None = None) -> None:
        super().__init__()
        self.captions, self.fallback = read_captions(captions), fallback
        self.source, self._warned = captions, False
        self.embeddings = TextEmbeddings(path, cache)
        self.embeddings.prepare([*self.captions.values(), *([] if fallback is None else [fallback])])
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # follows the module's device and precision

    def texts(self, keys: list[str] | None, count: int) -> list[str]:
        """The texts of images.

        Args:
            keys: Names of the images, or None.
            count: How many there are.

        Raises:
            ValueError: If one has no text and there is no `fallback`.
        """
        found = [find_caption(self.captions, key) for key in keys] if keys is not None else [None] * count
        if None in found:
            self._lacking("a call without keys" if keys is None else f"the image '{keys[found.index(None)]}'")
        return [text if text is not None else str(self.fallback) for text in found]

    def _lacking(self, image: str) -> None:
        """Refuse an image without a text, or warn of its fallback."""
        expected = f"a text in '{self.source}' for every image, found none for {image} (it names {len(self.captions)} "
        expected += f"images, '{next(iter(self.captions), '')}' first)"
        remedy = "give texts of the images to restore by --prompt FILE (ctsr tag writes one)"
        if self.fallback is None:
            raise ValueError(f"Expected {expected}. Add it, set `fallback` to the text of such images, or {remedy}.")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Expected {expected}: such images have the prompt '{self.fallback}', although the model was trained "
                f"with texts. Add them, or {remedy}.",
                stacklevel=2,
            )

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Read the embeddings of the images' texts."""
        return self.embeddings(self.texts(keys, lq.shape[0])).to(self._like)


class TaggedPrompt(Prompt):
    """Tags that a recognition network finds in each image (OSEDiff and CTSR: RAM, or DAPE for degraded images).

    As in OSEDiff's test program, the tagger sees the low-quality image enlarged bicubically, as the student does.

    Made for restoring photos. Tagging and embedding every crop of a training costs more than the training, and the text
    encoder is loaded again for each batch with tags that the cache has not seen. Train on a caption file of tags.

    Args:
        tagger: The tagger.
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        cache: A folder that keeps the embeddings; null keeps nothing.
        template: The text around the tags; OSEDiff's program writes `{tags}, ,`.
        scale: Enlargement of the image that the tagger sees (OSEDiff: 4); 1 shows it as it is.

    Raises:
        FileNotFoundError: If there are no tokenizer and encoder in reach.
        ValueError: If the template has no `{tags}`.
    """

    tagger: ImageTagger
    _like: Tensor

    def __init__(
        self, tagger: ImageTagger, path: str, cache: Path | None = None, template: str = "{tags}", scale: int = 4
    ) -> None:
        super().__init__()
        check_template(template)
        object.__setattr__(self, "tagger", tagger)  # no part of this module, even where it is a module itself
        self.template, self.scale = template, scale
        self.embeddings = TextEmbeddings(path, cache)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # follows the module's device and precision

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the image says it all
        """Recognise and embed."""
        with torch.no_grad():
            texts = tagged_texts(self.tagger, lq.detach().float(), self.template, self.scale)
        return self.embeddings(texts, lq.device).to(self._like)
