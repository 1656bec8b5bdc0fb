"""Caption files: a text for each image, read, looked up and written."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ctsr_lightning.files import file_hash, written_aside
from ctsr_lightning.images.listing import IMAGE_SUFFIXES

CAPTION_SUFFIXES: Final = frozenset({".json", ".tsv", ".txt"})
"""Suffixes by which a prompt on the command line is a caption file and not a text."""


def read_captions(path: Path) -> dict[str, str]:
    """Read a caption file.

    Args:
        path: A JSON object from image to text, or lines of `image<TAB>text`; empty lines are skipped.

    Returns:
        Texts by key: the image's path, with forward slashes, without an image's suffix; with it for two images that
        differ in nothing else.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is neither of the two formats, or gives an image two texts.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a caption file at '{path}', found nothing. Correct the path; to restore with a model that was "
            "trained with it, --prompt gives a text or another such file."
        )
    content = path.read_text(encoding="utf-8-sig")
    texts: dict[str, dict[str, str]] = {}  # by name without suffix, then by name as it is given
    for given, text in _json_pairs(content, path) if path.suffix == ".json" else _line_pairs(content, path):
        name = unicodedata.normalize("NFC", given.replace("\\", "/"))
        key = _without_suffix(name)
        same = texts.setdefault(key, {})
        if same.setdefault(name, text) != text or (key in same and len(set(same.values())) > 1):
            raise ValueError(f"Expected one text per image in '{path}', found two for '{key}'. Keep one.")
    captions: dict[str, str] = {}
    for key, same in texts.items():
        captions |= same if len(same) > 1 else {key: next(iter(same.values()))}
    return captions


def find_caption(captions: Mapping[str, str], key: str) -> str | None:
    """The text of an image, or of the image that it is a numbered repetition of; None if there is none.

    Args:
        captions: Texts of `read_captions`.
        key: The image, as in `Batch.key`.
    """
    key = unicodedata.normalize("NFC", key)
    image, _, number = key.rpartition("_")
    for name in (key, _without_suffix(key), *([image] if number.isdigit() else [])):
        if name in captions:
            return captions[name]
    return None


def write_captions(path: Path, captions: Mapping[str, str]) -> None:
    """Write a caption file, as a whole or not at all.

    Args:
        path: The file: a JSON object if its suffix is .json, else lines of `image<TAB>text`.
        captions: Texts by key.

    Raises:
        OSError: If it cannot be written.
    """
    if path.suffix == ".json":
        text = json.dumps(dict(captions), indent=0, ensure_ascii=False) + "\n"
    else:
        lines = (f"{key}\t{' '.join(text.split())}\n" for key, text in captions.items())
        text = "".join(lines)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def caption_file(prompt: str) -> Path | None:
    """The caption file that a prompt names; None for a prompt that is a text.

    Args:
        prompt: A text, or a file by its suffix (`CAPTION_SUFFIXES`).
    """
    return Path(prompt).expanduser() if Path(prompt).suffix.lower() in CAPTION_SUFFIXES else None


def describe_prompt(prompt: str | None) -> Any:
    """A prompt for the record of a measurement: the text, or name and hash of the caption file.

    Args:
        prompt: As in `caption_file`; None for the model's own.
    """
    file = None if prompt is None else caption_file(prompt)
    return prompt if file is None else {"file": file.name, "sha256": file_hash(file)}


def _without_suffix(name: str) -> str:
    """The name of an image without its suffix."""
    parts = PurePosixPath(name)
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
