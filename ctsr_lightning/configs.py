"""Configurations that come with the package, by name: `nano/stage1.yaml`, `data/realsr.yaml`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

DEEP: Final = 2
"""Dots in the name of a setting of a class within a class."""
NULLS: Final = frozenset({"null", "~"})
"""Words of YAML for null."""


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

    Raises:
        ValueError: If such a file is no YAML.
    """
    found = []
    for word in words:
        option, separator, name = word.partition("=") if word.startswith("--") else ("", "", word)
        if name.endswith((".yaml", ".yml")):
            file = find_config(name)
            _check_syntax(file)
            word = f"{option}{separator}{file}"  # noqa: PLW2901
        found.append(word)
    return found


def _check_syntax(file: Path) -> None:
    """Refuse a configuration file with wrong syntax by its name, which jsonargparse does not give."""
    import yaml

    if not file.is_file():
        return
    try:
        yaml.compose(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(
            f"Expected a configuration in YAML in '{file}', found wrong syntax: {reason}. Correct the file; YAML is "
            "indented by spaces, not tabs."
        ) from error


def take_nulls(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the words to parse and the settings deep in a configuration that it sets to null.

    In jsonargparse 4.53 the null of a class in a class becomes the text 'None' on its way down.

    Args:
        words: The command line: `--model.student.unet.weights null`, or with an equals sign.

    Returns:
        The other words, and the settings, `model.student.unet.weights`.
    """
    kept: list[str] = []
    nulls: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if value in NULLS and _is_deep(name):
            nulls.append(name.removeprefix("--"))
        elif word in NULLS and kept and _is_deep(kept[-1]):
            nulls.append(kept.pop().removeprefix("--"))
        else:
            kept.append(word)
    return kept, nulls


def _is_deep(option: str) -> bool:
    return option.startswith("--") and option.count(".") >= DEEP and "=" not in option


def with_nulls(config: Any, keys: list[str]) -> Any:
    """Set values of a parsed command line to null.

    Args:
        config: What was parsed, changed in place.
        keys: The settings; `init_args` may be left out.

    Raises:
        ValueError: If there is no such setting.
    """
    for key in keys:
        arguments = config.get(config.get("subcommand") or "") or config
        *place, last = [part for part in key.split(".") if part != "init_args"]
        for part in place:
            arguments = _arguments(arguments).get(part)
        arguments = _arguments(arguments)
        if last not in arguments:
            raise ValueError(f"Expected a setting in --{key}, found none of that name. --print_config shows all.")
        arguments[last] = None
    return config


def _arguments(config: Any) -> Any:
    """The settings in a part of a configuration: those of the class that it names, if it names one."""
    found = config.get("init_args", config) if hasattr(config, "get") else None
    return found if hasattr(found, "get") else {}
