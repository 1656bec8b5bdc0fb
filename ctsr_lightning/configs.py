"""Configurations that come with the package, by name: `nano/stage1.yaml`, `data/realsr.yaml`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def configs_folder() -> Path:
    """The folder of configurations: inside an installed package, beside it in a checkout of the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path) -> Path:
    """File of a configuration: the one named, else the one of that name that comes with the package.

    Args:
        name: A file; or a name such as `nano/stage1.yaml`, with or without `configs/` before it.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.is_absolute():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    shipped = configs_folder().joinpath(*parts)
    if not shipped.is_file():
        return path
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once, not in every process of a training
        sys.stderr.write(f"ctsr: '{path}' is not here; taking '{shipped}', which comes with ctsr_lightning\n")
    return shipped


def find_in_words(words: list[str]) -> list[str]:
    """Words of a command line, with the files of configurations that come with the package.

    Args:
        words: The words; `--config NAME.yaml` and `--config=NAME.yaml` alike.
    """
    found = []
    for word in words:
        option, separator, name = word.partition("=") if word.startswith("--") else ("", "", word)
        is_file = name.endswith((".yaml", ".yml"))
        found.append(f"{option}{separator}{find_config(name)}" if is_file else word)
    return found
