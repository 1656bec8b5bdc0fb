"""Prompt embeddings behind one interface: none, fixed, by caption file, by an image tagger, or of a cache."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from ctsr_lightning.images import IMAGE_SUFFIXES
from ctsr_lightning.prompts.taggers import ImageTagger
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
    unnoticed; so is a call without keys. `fallback` changes both. Repetitions of an image (`photo_2`) have its text.

    Args:
        captions: A JSON object from image to text, or lines of `image<TAB>text`. An image is named by its key, the path
            below its folder with forward slashes, with or without suffix.
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        cache: The folder that keeps the embeddings: 0.3 MB for each text of Stable Diffusion 2.
        fallback: The text of images that the file does not name; null refuses them.

    Raises:
        FileNotFoundError: If the captions, or tokenizer and encoder, are not there.
        ValueError: If the caption file cannot be read.
    """

    _like: Tensor

    def __init__(self, captions: Path, path: str, cache: Path, fallback: str | None = None) -> None:
        super().__init__()
        self.captions, self.fallback = read_captions(captions), fallback
        self.source = captions
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
        found = [self._find(key) for key in keys] if keys is not None else [self.fallback] * count
        if None in found:
            lacking = "a call without keys" if keys is None else f"the image '{keys[found.index(None)]}'"
            raise ValueError(
                f"Expected a text in '{self.source}' for every image, found none for {lacking} (it names "
                f"{len(self.captions)} images, '{next(iter(self.captions), '')}' first). Add it, or set `fallback` to "
                "the text of such images."
            )
        return [text for text in found if text is not None]

    def _find(self, key: str) -> str | None:
        """The text of a key, or of the image that the key is a numbered repetition of."""
        image, _, number = key.rpartition("_")
        return self.captions.get(key, self.captions.get(image, self.fallback) if number.isdigit() else self.fallback)

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Read the embeddings of the images' texts."""
        return self.embeddings(self.texts(keys, lq.shape[0])).to(self._like)


class TaggedPrompt(Prompt):
    """Tags that a recognition network finds in each image (OSEDiff and CTSR: RAM, or DAPE for degraded images).

    Made for restoring photos. Tagging and embedding every crop of a training costs more than the training, and the text
    encoder is loaded again for each batch with tags that the cache has not seen. Train on a caption file of tags.

    Args:
        tagger: The tagger.
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        cache: A folder that keeps the embeddings; null keeps nothing.
        template: The text around the tags; OSEDiff's program writes `{tags}, ,`.

    Raises:
        FileNotFoundError: If there are no tokenizer and encoder in reach.
        ValueError: If the template has no `{tags}`.
    """

    tagger: ImageTagger
    _like: Tensor

    def __init__(self, tagger: ImageTagger, path: str, cache: Path | None = None, template: str = "{tags}") -> None:
        super().__init__()
        if "{tags}" not in template:
            raise ValueError(f"Expected a template with '{{tags}}' in it, found '{template}'.")
        object.__setattr__(self, "tagger", tagger)  # no part of this module, even where it is a module itself
        self.template = template
        self.embeddings = TextEmbeddings(path, cache)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # follows the module's device and precision

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the image says it all
        """Recognise and embed."""
        with torch.no_grad():
            tags = self.tagger.tags(lq.detach().float())
        if len(tags) != lq.shape[0]:
            raise ValueError(
                f"Expected tags of {lq.shape[0]} images from {type(self.tagger).__name__}, found {len(tags)}."
            )
        texts = [self.template.replace("{tags}", found) for found in tags]
        return self.embeddings(texts, lq.device).to(self._like)


def read_captions(path: Path) -> dict[str, str]:
    """Read a caption file.

    Args:
        path: A JSON object from image to text, or lines of `image<TAB>text`; empty lines are skipped.

    Returns:
        Texts by key: the image's path, with forward slashes, without an image's suffix.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is neither of the two formats, or gives an image two texts.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"Expected a caption file at '{path}', found nothing. Correct the path.")
    content = path.read_text(encoding="utf-8-sig")
    captions: dict[str, str] = {}
    for name, text in _json_pairs(content, path) if path.suffix == ".json" else _line_pairs(content, path):
        key = _key(name)
        if captions.setdefault(key, text) != text:
            raise ValueError(f"Expected one text per image in '{path}', found two for '{key}'. Keep one.")
    return captions


def _key(name: str) -> str:
    """The key of an image that is named with or without its suffix."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return str(parts.with_suffix("") if parts.suffix.lower() in IMAGE_SUFFIXES else parts)


def _json_pairs(content: str, path: Path) -> list[tuple[str, str]]:
    try:
        pairs: list[tuple[str, object]] = json.loads(content, object_pairs_hook=list)  # keeps names that come twice
    except ValueError as error:
        raise ValueError(f"Expected a JSON object from image to text in '{path}', found no JSON: {error}.") from error
    texts = [pair for pair in pairs if isinstance(pair, tuple)] if isinstance(pairs, list) else []
    if not texts or len(texts) != len(pairs) or not all(isinstance(text, str) for _, text in texts):
        raise ValueError(
            f"Expected a JSON object from image to text in '{path}', found {content.strip()[:40]!r}. Write it as "
            '{"folder/photo": "what is on it"}.'
        )
    return [(name, str(text)) for name, text in texts]


def _line_pairs(content: str, path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab or not name.strip():
            raise ValueError(
                f"Expected image<TAB>text in line {number} of '{path}', found {line[:40]!r}. Put one tab between the "
                "two, or give the file the suffix .json if it is JSON."
            )
        pairs.append((name.strip(), text.strip()))
    return pairs
