"""Arguments that several commands share: the model, and lists of words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctsr_lightning.commands.output import note
from ctsr_lightning.inference.settings import Color, Precision, Space

if TYPE_CHECKING:
    from ctsr_lightning.inference.restorer import Restorer


def listed(words: str | Sequence[str] | None) -> list[str]:
    """Read a list of folders.

    Args:
        words: Folders with commas between them, a list of such, or None.
    """
    several = [words] if isinstance(words, str) else words or []
    return [word.strip() for text in several for word in text.split(",") if word.strip()]


def refuse_empty(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse an empty text where it is no value, as a path is none: it comes of a variable that is not set.

    Args:
        function: The command; texts that are empty by default may be, and an empty prompt is one.
        options: Its arguments.

    Raises:
        ValueError: If there is one.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        value = options.get(name)
        texts = value if isinstance(value, list | tuple) else [value]
        if parameter.default != "" and name != "prompt" and any(str(text) == "" for text in texts):
            by_place = parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL}
            shown = name.upper() if by_place or parameter.default is parameter.empty else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"Expected a value for {shown}, found an empty text. Give one, or set the variable that it was to come "
                "from."
            )


def trusted(packages: str | None) -> AbstractContextManager[None]:
    """Context in which checkpoints may name classes of some packages, whose code then runs.

    Args:
        packages: Their names with commas between them, or None.
    """
    if packages is None:
        return nullcontext()
    from ctsr_lightning.inference.trust import trusting

    return trusting(*listed(packages))


def load_restorer(
    checkpoint: str | Path | None,
    *,
    tile: int | None,
    device: str,
    precision: Precision,
    color: Color = "none",
    prompt: str | None = None,
    space: Space = "latent",
) -> Restorer:
    """Read the model of a command; if it is the shipped one, say so on standard error.

    Args:
        checkpoint: Name of the model, as in `Restorer.from_pretrained`; None for the model that comes with the package.
        tile: Side of a tile in input pixels.
        device: Where to compute.
        precision: Type to compute in.
        color: Correction of colours by the enlarged input.
        prompt: A text, or a caption file, in place of the model's own prompt.
        space: Where t acts.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If a prompt is given to a model that takes none.
    """
    import torch

    from ctsr_lightning.inference.devices import cpu_emulates, pick_device
    from ctsr_lightning.inference.pretrained import describe_model, find_model
    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.weights.shipped import SHIPPED

    path = find_model(SHIPPED if checkpoint is None else checkpoint)
    if checkpoint is None or str(checkpoint) == SHIPPED:
        name = describe_model(path)
        note(f"model: {name}, a small one trained on photographs; --checkpoint FILE names another")
    if precision != "float32" and pick_device(device).type == "cpu" and cpu_emulates(precision):
        note(f"note: this CPU has no instructions for {precision} and emulates it, float32 is faster")
    return Restorer.from_pretrained(
        path, device, getattr(torch, precision), tile, color=color, prompt=prompt, space=space
    )


def prompt_words(prompt: str | None) -> Callable[[str], str]:
    """What the record of a result says about the prompt of an image, by the image's key.

    Args:
        prompt: A text, or a caption file; None for the model's own.

    Returns:
        A function of the key: `own`, or the text without spaces, in quotes.

    Raises:
        FileNotFoundError: If there is no such caption file.
        ValueError: If it cannot be read.
    """
    from ctsr_lightning.prompts.captions import caption_file, find_caption, read_captions

    def quoted(text: str | None) -> str:
        return "none" if text is None else f'"{quote(text)}"'

    if prompt is None:
        return lambda _: "own"
    file = caption_file(prompt)
    if file is None:
        return lambda _: quoted(prompt)
    captions = read_captions(file)
    return lambda key: quoted(find_caption(captions, key))


def model_identity(checkpoint: str | Path | None) -> str:
    """What tells a model from others: a hash of its file, and of the configuration beside it where that belongs to it.

    Args:
        checkpoint: Name of the model, as in `load_restorer`.

    Raises:
        FileNotFoundError: If it is not there.
    """
    from ctsr_lightning.inference.pretrained import find_model, identify_model
    from ctsr_lightning.weights.shipped import SHIPPED

    return identify_model(find_model(SHIPPED if checkpoint is None else checkpoint))
