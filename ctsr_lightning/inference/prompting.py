"""Another prompt for a trained model than the one that it was trained with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ctsr_lightning.prompts.captions import caption_file

TEXTUAL: Final = frozenset({"TextPrompt", "CaptionPrompt", "TaggedPrompt"})
"""Prompts that name a text encoder."""


def check_prompt(config: Mapping[str, Any], path: Path) -> None:
    """Refuse another prompt for a model that takes none, or whose text encoder is not named.

    Args:
        config: The plain values of a training.
        path: Its checkpoint, for the message.

    Raises:
        ValueError: If its student's prompt is none of `TEXTUAL`.
    """
    if takes_prompt(config):
        return
    own = _own_prompt(config)
    if own is None or _kind(own) == "NoPrompt":
        raise ValueError(
            f"Expected a model that takes texts for a prompt, found one without any in '{path}': its networks have no "
            "cross-attention, or were trained without a prompt. Leave the prompt (--prompt) out."
        )
    raise ValueError(
        f"Expected a model whose prompt names a text encoder ({', '.join(sorted(TEXTUAL))}) for another prompt, found "
        f"{_kind(own)} in '{path}'. Name one of those as student.prompt in its configuration."
    )


def takes_prompt(config: Mapping[str, Any]) -> bool:
    """Whether a training's student takes texts, so that another prompt can take the place of its own.

    Args:
        config: The plain values of the training.
    """
    return _kind(_own_prompt(config)) in TEXTUAL


def with_prompt(config: Any, prompt: str) -> Any:
    """Plain values with every prompt of `TEXTUAL` replaced: the student's, and those of teachers that are students.

    Args:
        config: The plain values of a training, or a part of them.
        prompt: A text for every image, or a caption file, whose texts take the place of the model's own.

    Returns:
        A copy; the text encoder, and the folder that keeps embeddings, stay those of the replaced prompt.
    """
    if isinstance(config, list):
        return [with_prompt(value, prompt) for value in config]
    if not isinstance(config, Mapping):
        return config
    return {
        key: _replacement(value["init_args"], prompt)
        if key == "prompt" and _kind(value) in TEXTUAL
        else with_prompt(value, prompt)
        for key, value in config.items()
    }


def _own_prompt(config: Mapping[str, Any]) -> Any:
    """Plain values of the student's prompt; a `TradeOff` has a student of its own."""
    arguments = (config.get("student") or {}).get("init_args") or {}
    return _own_prompt(arguments) if "student" in arguments else arguments.get("prompt")


def _kind(prompt: Any) -> str:
    """Class name of a prompt's plain values."""
    return str(prompt.get("class_path", "")).rpartition(".")[2] if isinstance(prompt, Mapping) else ""


def _replacement(own: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """Plain values of the prompt that replaces another."""
    path, cache, file = own["path"], own.get("cache"), caption_file(prompt)
    if file is None:
        return {
            "class_path": "ctsr_lightning.prompts.TextPrompt",
            "init_args": {"path": path, "text": prompt, "cache": cache},
        }
    cache = cache or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ctsr_lightning" / "text")
    return {
        "class_path": "ctsr_lightning.prompts.CaptionPrompt",
        "init_args": {"captions": str(file.absolute()), "path": path, "cache": cache},
    }
