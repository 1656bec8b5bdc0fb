"""On-disk cache of frozen networks' outputs, keyed by image content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ctsr_lightning import __version__
from ctsr_lightning.files import written_aside
from ctsr_lightning.images import content_key

FORMAT: Final = 1
"""Version of the folder's layout."""
DESCRIPTION: Final = "cache.json"
"""File that names the networks whose outputs a folder holds."""


class OutputCache:
    """Records of tensors about images, one safetensors file per image, written by `ctsr cache`.

    An image is looked up by its content (`content_key`), not by a name, so that nothing can be mixed up: another crop,
    flip or degradation of the same photo is another image. A file is written aside and renamed, so that every record
    that is there is whole, and any number of processes may write to one folder. `cache.json` says which networks
    made them.

    Making this object reads nothing.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("??/[!.]*.safetensors"))

    def open(self, cache_signature: Mapping[str, str], data: Mapping[str, Any]) -> None:
        """Describe the folder, or make sure that it goes on being what it is described as.

        Args:
            cache_signature: What the outputs depend on, by name.
            data: Plain facts about the images, for messages.

        Raises:
            ValueError: If the folder holds outputs of other networks.
        """
        if (self.folder / DESCRIPTION).is_file():
            self.check(cache_signature)
        content = {
            "format": FORMAT,
            "ctsr_lightning": __version__,
            "cache_signature": dict(cache_signature),
            "data": dict(data),
        }
        with written_aside(self.folder / DESCRIPTION) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def description(self) -> dict[str, Any]:
        """Contents of `cache.json`.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it cannot be read.
        """
        path = self.folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected a cache of `ctsr cache` in '{self.folder}', found no {DESCRIPTION} there (current "
                f"directory: '{Path.cwd()}'). Correct the path, or make one: ctsr cache --config CONFIG --output "
                f"{self.folder}, with a configuration that names the networks themselves."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content["format"], dict(content["cache_signature"]), dict(content["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Expected the description of a cache in '{path}', found something else: {error}."
            ) from error
        if found[0] != FORMAT:
            raise ValueError(
                f"Expected a cache of format {FORMAT} in '{self.folder}', found {found[0]}: another version of "
                "ctsr_lightning has made it. Use that version, or make it anew in another folder."
            )
        return dict(content)

    def check(self, cache_signature: Mapping[str, str]) -> None:
        """Refuse outputs of other networks.

        Args:
            cache_signature: What the outputs have to depend on, by name.

        Raises:
            FileNotFoundError: If there is no description.
            ValueError: If it differs; the message says in what.
        """
        there = self.description()["cache_signature"]
        if other := {
            name: there.get(name, "nothing") for name, value in cache_signature.items() if there.get(name) != value
        }:
            differences = "; ".join(
                f"{name}: '{found}', not '{cache_signature[name]}'" for name, found in other.items()
            )
            raise ValueError(
                f"Expected outputs of this configuration's networks in the cache '{self.folder}', found those of "
                f"others ({differences}). Use the configuration and weights that it was made with, or make another "
                "cache in another folder."
            )

    def missing(self, lq: Tensor, names: Sequence[str]) -> list[int]:
        """Positions in a batch of the images without a whole record.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            names: What a record has to hold.
        """
        return [i for i, image in enumerate(lq) if not set(names) <= self._holds(self._file(content_key(image)))]

    def write(self, image: Tensor, record: Mapping[str, Tensor]) -> None:
        """Keep the outputs for an image, beside what is there already.

        Args:
            image: The image, RGB in [0, 1], shape (3, h, w).
            record: Tensors by name.

        Raises:
            OSError: If it cannot be written.
        """
        path = self._file(content_key(image))
        before = self._load(path, sorted(self._holds(path) - record.keys()))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in {**before, **record}.items()}
        with written_aside(path) as aside:
            aside.write_bytes(save(tensors))

    def read(self, lq: Tensor, *names: str) -> list[Tensor]:
        """Cached outputs for images.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            names: Which parts of their records.

        Returns:
            A batch for each name, on the images' device.

        Raises:
            ValueError: If an image, or a part of its record, is not there.
        """
        records = [self._record(image, names) for image in lq]
        return [torch.stack([record[name] for record in records]).to(lq.device) for name in names]

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _holds(self, path: Path) -> set[str]:
        """The names in a record, none if it is not there or damaged."""
        try:
            with safe_open(path, framework="pt") as record:
                return set(record.keys())
        except (FileNotFoundError, SafetensorError):
            return set()

    def _load(self, path: Path, names: Sequence[str]) -> dict[str, Tensor]:
        if not names:
            return {}
        with safe_open(path, framework="pt") as record:
            return {name: record.get_tensor(name) for name in names}

    def _record(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Parts of the record of an image.

        Raises:
            ValueError: If it is not there, or lacks something.
        """
        path = self._file(content_key(image))
        try:
            return self._load(path, names)
        except (FileNotFoundError, SafetensorError) as error:
            raise self._unknown(image, names, self._holds(path)) from error

    def _unknown(self, image: Tensor, names: Sequence[str], holds: set[str]) -> ValueError:
        """The error for an image whose record is not there, or holds other parts only."""
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        data = self.description()["data"]
        if holds:
            return ValueError(
                f"Expected {', '.join(names)} of an image of {size} pixels in the cache '{self.folder}', found "
                f"{', '.join(sorted(holds))} only: a validation image, or one whose restoration was skipped. Train on "
                "other images than those to validate on, or run `ctsr cache` again without --skip-restorations."
            )
        facts = ", ".join(f"{name} {value}" for name, value in data.items())
        return ValueError(
            f"There is no cached output for this image of {size} pixels in '{self.folder}' (it holds {len(self)}). "
            f"Expected images of the cache: the same `data` block, degraded in the worker; it was made with {facts}. "
            "Or run `ctsr cache` again with this configuration: it adds what is not there yet."
        )
