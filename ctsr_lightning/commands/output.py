"""What commands print: text for people, or one JSON object for programs (`--json`); with `--quiet` neither."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from ctsr_lightning.progress import without_progress


class Manner(NamedTuple):
    """How a command is to print."""

    quiet: bool = False
    """Neither text, notes nor progress; what goes wrong is still named on standard error."""
    as_json: bool = False
    """A JSON object in place of text on standard output."""


_manner: ContextVar[Manner] = ContextVar("manner", default=Manner())  # noqa: B039  # a tuple


@contextmanager
def printing(manner: Manner) -> Iterator[None]:
    """Within this context commands print in a manner.

    Args:
        manner: The manner.
    """
    token = _manner.set(manner)
    try:
        with without_progress(manner.quiet):
            yield
    finally:
        _manner.reset(token)


def tell(text: str) -> None:
    """Print text on standard output, for people.

    Args:
        text: The text.
    """
    if _manner.get() == Manner():
        print(text, flush=True)


def note(text: str) -> None:
    """Print a remark on standard error.

    Args:
        text: The remark.
    """
    if not quiet():
        print(text, file=sys.stderr)


def quiet() -> bool:
    """Whether nothing is printed but what goes wrong."""
    return _manner.get().quiet


def result(**values: Any) -> None:
    """Print the result of a command as a JSON object, if that is wanted.

    Args:
        **values: Plain data and paths.
    """
    if _manner.get().as_json:
        print(json.dumps(values, indent=2, allow_nan=False, default=_plain), flush=True)


def _plain(value: object) -> str:
    """A path as text."""
    if not isinstance(value, Path):
        raise TypeError(f"Expected plain data or paths in a result, found {type(value).__name__}.")
    return str(value)
