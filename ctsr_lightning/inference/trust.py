"""What a configuration inside a checkpoint may name: nothing else of it is imported, built or called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from jsonargparse import _common as _jsonargparse
from jsonargparse import set_parsing_settings

NAMEABLE: Final = ("ctsr_lightning", "torch.optim", "diffusers", "transformers", "lightning")
"""Packages and modules whose classes a checkpoint may name; the user adds others by `trusting`."""
_RUNNING: Final = ("ctsr_lightning.cli", "ctsr_lightning.commands", "ctsr_lightning.training")
"""Parts of this package that run whole configurations, which may name any code."""
FOREIGN_CODE: Final = frozenset({"trust_remote_code", "custom_pipeline", "custom_revision"})
"""Arguments by which classes of diffusers and transformers run code that lies beside a model's weights."""

_METHOD: Final = re.compile(r"\.[A-Z]\w*\.")
"""A path that goes on behind a class."""

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(*packages: str) -> Iterator[None]:
    """Within this context, checkpoints may name classes of these packages: their code is imported and runs.

    Args:
        packages: Names as in an import, such as `my_codec`.

    Raises:
        ValueError: If one of them is no such name.
    """
    for name in packages:
        if not all(part.isidentifier() for part in name.split(".")) or name.partition(".")[0] == "jsonargparse":
            raise ValueError(f"Expected names of packages to trust, such as my_codec, found '{name}'. Correct it.")
    token = _trusted.set((*_trusted.get(), *packages))
    try:
        yield
    finally:
        _trusted.reset(token)


@contextmanager
def only_nameable() -> Iterator[None]:
    """Within this context, jsonargparse imports what a checkpoint may name, and refuses the rest unimported."""
    before = dict(_jsonargparse.parsing_settings)  # the public function adds to the lists; it takes nothing back
    try:
        set_parsing_settings(
            import_path_denylist=["*", *_RUNNING],
            import_path_allowlist=[*NAMEABLE, *_trusted.get()],
            instantiate_subclass_spec_in_any=False,
        )
        yield
    finally:
        _jsonargparse.parsing_settings.clear()
        _jsonargparse.parsing_settings.update(before)


def refuse_foreign_code(value: Any, source: object) -> None:
    """Refuse values by which an allowed package would run code of others: methods that load, and remote code.

    Args:
        value: Parsed values, in which every class is a `class_path`.
        source: The file that they come from, for the message.

    Raises:
        ValueError: If there are any.
    """
    if isinstance(value, Mapping):
        path = value.get("class_path")
        own = tuple(f"{name}." for name in _trusted.get())
        if isinstance(path, str) and not path.startswith(own) and _METHOD.search(path):
            raise _refusal(source, f"the method '{path}'")
        if named := sorted(FOREIGN_CODE & {key for key, item in value.items() if item}):
            raise _refusal(source, f"the option '{named[0]}', which runs code from elsewhere")
        for item in value.values():
            refuse_foreign_code(item, source)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_foreign_code(item, source)


def stranger_error(source: object, class_path: str) -> ValueError:
    """The error for a class of a package that a checkpoint may not name.

    Args:
        source: The checkpoint.
        class_path: The class.
    """
    package = class_path.partition(".")[0]
    return _refusal(
        source,
        f"'{class_path}', which was not imported",
        f"If you trust the file and '{package}', say --trust {package} (from Python, `with "
        f'ctsr_lightning.trusting("{package}"):`): the code of that package then runs.',
    )


def _refusal(source: object, found: str, remedy: str = "Use it only with code of your own.") -> ValueError:
    return ValueError(
        f"Expected the configuration in '{source}' to name classes of {', '.join(NAMEABLE)} alone, found {found}. "
        f"{remedy}"
    )
