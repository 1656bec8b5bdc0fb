"""Texts to embeddings by CLIP, cached on disk, so that the text encoder is in memory only while it works."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctsr_lightning.files import written_aside
from ctsr_lightning.weights.hub import first_match, model_folder
from ctsr_lightning.weights.reading import load_strictly
from ctsr_lightning.weights.single_file import read_tensors

_WEIGHTS: Final = [
    f"text_encoder/{name}"
    for name in ("model.safetensors", "model-*.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
]
_WANTED: Final = ["text_encoder/config.json", "tokenizer/*", "text_encoder/*.index.json"]


class TextEmbeddings:
    """Embeddings of texts, from the cache or else from the encoder.

    The encoder is in memory only while it computes texts that the cache lacks. Texts are embedded one by one, so that
    an embedding is the same bits in every batch. The cache holds a safetensors file for each text, in a folder for each
    encoder, told apart by its configuration, its tokenizer, and name, size and time of its weights.

    Args:
        path: A local folder in diffusers' layout, or a hub id, with `tokenizer` and `text_encoder` subfolders.
        cache: The cache's folder, made as needed; several processes and encoders may share it. Null keeps nothing.

    Raises:
        FileNotFoundError: If there are no tokenizer and encoder in reach.
    """

    def __init__(self, path: str, cache: Path | None = None) -> None:
        self.folder = model_folder(path, _WANTED, _WEIGHTS, "a CLIP tokenizer and text encoder")
        self.weights = first_match(self.folder, _WEIGHTS)
        tokens = first_match(self.folder, ["tokenizer/vocab.json", "tokenizer/tokenizer.json"])
        present = {_WANTED[0]: (self.folder / _WANTED[0]).is_file(), _WEIGHTS[0]: self.weights, "tokenizer": tokens}
        if absent := [name for name, found in present.items() if not found]:
            raise FileNotFoundError(
                f"Could not load a CLIP tokenizer and text encoder from '{path}': it has no {', no '.join(absent)}. "
                "Give a folder in diffusers' layout with `tokenizer` and `text_encoder` (a single file does not do for "
                "texts; FixedPrompt reads an embedding made elsewhere), or a hub id that can be reached from here."
            )
        self.cache = cache.expanduser() / self._identity() if cache is not None else None

    def __call__(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Embed texts.

        Args:
            texts: B texts; empty ones are valid.
            device: Where the encoder runs, if it has to.

        Returns:
            Embeddings on the CPU, float32, shape (B, L, D).
        """
        known = {text: self.read(text) for text in texts}
        lacking = [text for text, embedding in known.items() if embedding is None]
        known.update(self._compute(lacking, device))
        return torch.stack([embedding for text in texts if (embedding := known[text]) is not None])

    def prepare(self, texts: Sequence[str], device: torch.device | str = "cpu") -> int:
        """Put the embeddings of texts into the cache, those that are not there yet.

        Args:
            texts: Any number of texts. Processes that share the work give a part each.
            device: Where the encoder runs.

        Returns:
            Number of texts that were not in the cache.

        Raises:
            ValueError: If there is no cache.
        """
        if self.cache is None:
            raise ValueError("Expected a cache to put embeddings into, found none: set `cache` to a folder.")
        lacking = [text for text in dict.fromkeys(texts) if not self._file(text).is_file()]
        return sum(1 for _ in self._compute(lacking, device))

    def read(self, text: str) -> Tensor | None:
        """Embedding of a text in the cache, shape (L, D), or None."""
        path = self._file(text) if self.cache is not None else None
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)["embedding"]
        except Exception as error:
            raise ValueError(f"The cached embedding '{path}' cannot be read: {error}. Delete it.") from error

    def _compute(self, texts: Sequence[str], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
        """Embed texts by the encoder, and cache each as soon as it is there."""
        if not texts:
            return
        encoder = _Encoder(self.folder, self.weights, torch.device(device))
        try:
            for text in texts:
                embedding = encoder(text)
                if self.cache is not None:
                    with written_aside(self._file(text)) as aside:
                        save_file({"embedding": embedding}, aside, metadata={"text": text})
                yield text, embedding
        finally:
            del encoder
            gc.collect()  # its modules refer to each other

    def _identity(self) -> str:
        """Name of this encoder by its files."""
        digest = hashlib.sha256()
        config = self.folder / "text_encoder" / "config.json"
        for file in (config, *sorted(p for p in (self.folder / "tokenizer").iterdir() if p.is_file())):
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
        for file in self.weights:
            facts = file.stat()
            digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        return digest.hexdigest()[:16]

    def _file(self, text: str) -> Path:
        assert self.cache is not None
        return self.cache / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


class _Encoder:
    """A CLIP tokenizer and text encoder in float32, with every weight from its files.

    Args:
        folder: The model's folder.
        weights: The encoder's weight files.
        device: Where it runs.
    """

    def __init__(self, folder: Path, weights: list[Path], device: torch.device) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
            with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on the cache
                encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder), subfolder="text_encoder"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected a CLIP tokenizer and text encoder in '{folder}', but they cannot be built: "
                f"{str(error).splitlines()[0]}"
            ) from error
        prefix = "text_model."  # in the names or not, depending on the version of transformers that wrote them
        names = {name: name.removeprefix(prefix) for name in encoder.state_dict()}
        tensors = {k.removeprefix(prefix): v for file in weights for k, v in read_tensors(file).items()}
        load_strictly(
            encoder,
            {key: tensors[key] for key in names.values() if key in tensors},  # old files also hold position indices
            weights[0],
            names=names,
            expected="the weights of the text encoder",
            remedy="Download the folder again.",
        )
        self.encoder, self.device = encoder.eval().to(device), device

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """Embed one text; float32 on the CPU, shape (L, D)."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.autocast(self.device.type, enabled=False):
            embedding: Tensor = self.encoder(tokens.input_ids.to(self.device))[0][0]
        return embedding.cpu().contiguous()
