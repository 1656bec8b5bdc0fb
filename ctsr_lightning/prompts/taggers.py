"""Image taggers: recognition networks whose tags serve as prompts."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.images import upsample
from ctsr_lightning.weights.reading import read_file
from ctsr_lightning.weights.search import find_weights

SIDE: Final = 384
"""Side of RAM's input in pixels."""
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""ImageNet's statistics, which RAM was trained with."""


class ImageTagger(ABC):
    """Interface of image taggers."""

    @abstractmethod
    def tags(self, images: Tensor) -> list[str]:
        """Tag images.

        Args:
            images: RGB in [0, 1], float32, shape (B, 3, h, w), on any device.

        Returns:
            B texts: tags separated by commas.
        """


def check_template(template: str) -> None:
    """Refuse a text around tags that has no place for them.

    Args:
        template: A text with `{tags}` in it.

    Raises:
        ValueError: If it has none.
    """
    if "{tags}" not in template:
        raise ValueError(f"Expected a template with '{{tags}}' in it, found '{template}'.")


def tagged_texts(tagger: ImageTagger, images: Tensor, template: str = "{tags}", scale: int = 1) -> list[str]:
    """Tag images and put the tags into a text.

    Args:
        tagger: The tagger.
        images: RGB in [0, 1], float32, shape (B, 3, h, w).
        template: The text, with `{tags}` in it.
        scale: Bicubic enlargement of what the tagger sees.

    Returns:
        B texts.

    Raises:
        ValueError: If the tagger gives another number of texts.
    """
    tags = tagger.tags(upsample(images, scale))
    if len(tags) != len(images):
        raise ValueError(f"Expected tags of {len(images)} images from {type(tagger).__name__}, found {len(tags)}.")
    return [template.replace("{tags}", found) for found in tags]


class RAMTagger(ImageTagger):
    """RAM, or DAPE, which is RAM adapted to degraded images (SeeSR).

    OSEDiff trains with RAM's tags of the ground truth (`train_osediff.py`), and restores with DAPE's of the low-quality
    image, enlarged to the result's size first (`test_osediff.py`).

    Neither is part of this package. RAM comes as the Python package `ram` of the project recognize-anything. DAPE needs
    the version of `ram` that SeeSR, OSEDiff and PiSA-SR bring along (with `ram.models.ram_lora`): put a checkout of one
    of them on PYTHONPATH. Both fetch the vocabulary of `bert-base-uncased` from the hub on first use. The network is
    loaded at the first image.

    Args:
        weights: RAM's weights, `ram_swin_large_14m.pth`.
        dape: DAPE's weights over RAM's, `DAPE.pth`; null takes RAM itself.

    Raises:
        ImportError: If the package is not installed.
        FileNotFoundError: If a weight file is not there.
        ValueError: If a weight file is damaged or holds more than tensors.
    """

    def __init__(self, weights: Path, dape: Path | None = None) -> None:
        module = "ram.models.ram_lora" if dape is not None else "ram.models"
        try:
            self._build = importlib.import_module(module).ram
        except (ImportError, AttributeError) as error:
            source = (
                "put a checkout of OSEDiff, SeeSR or PiSA-SR, which bring it along, on PYTHONPATH"
                if dape is not None
                else "install it with `pip install git+https://github.com/xinyu1205/recognize-anything.git`"
            )
            raise ImportError(
                f"{'DAPE' if dape is not None else 'RAM'} needs the function `ram` of the package `{module}`, "
                f"which cannot be imported ({error}): {source}. Or describe the images in a caption "
                "file (CaptionPrompt), or by one text (TextPrompt)."
            ) from error
        self._files = {"pretrained": find_weights(weights)}
        if dape is not None:
            self._files["pretrained_condition"] = find_weights(dape)
        self._network: Any = None

    def tags(self, images: Tensor) -> list[str]:
        """Tag images, resized to 384 pixels a side."""
        network = self._loaded().to(images.device)
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            found = network.generate_tag((small - mean) / std)[0]
        if len(found) != len(images) or not all(isinstance(text, str) for text in found):
            raise ValueError(
                "Expected one text of tags per image from `generate_tag` of the installed package `ram`, found "
                f"{str(found)[:60]}. Install the version that OSEDiff brings along."
            )
        return [text.replace(" | ", ", ") for text in found]

    def _loaded(self) -> Any:
        """The network, loaded at its first use."""
        if self._network is None:
            for file in self._files.values():
                _check(file)
            files = {name: str(file) for name, file in self._files.items()}
            try:
                self._network = self._build(**files, image_size=SIDE, vit="swin_l").eval().requires_grad_(False)
            except OSError as error:
                raise FileNotFoundError(
                    f"RAM could not be built: {error} It reads the vocabulary of `bert-base-uncased` from the hub: run "
                    "it once with network, or copy the hub's cache (HF_HOME) here."
                ) from error
        return self._network


def _check(file: Path) -> None:
    """Make sure that a file holds tensors only, because the package may read it in ways that run what is in it."""
    content = read_file(file, "RAM or DAPE", mapped=True)
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  # the file is wrong, not the call
            f"Expected named tensors in '{file}', found {type(content).__name__}. Name RAM's or DAPE's file."
        )
