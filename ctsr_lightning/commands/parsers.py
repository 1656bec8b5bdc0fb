"""Parsers of commands, from the signatures and docstrings of their functions."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def load_command(place: str) -> Callable[..., Any]:
    """Import the function behind a command, from `module:function`."""
    module, _, function = place.partition(":")
    command: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return command


def command_parser(function: Callable[..., Any], program: str) -> ArgumentParser:
    """Turn a command's signature and docstring into a parser.

    `flag: bool = False` becomes a bare `--flag`, a positional-only parameter with a default an optional word, `*names`
    one or more words. Options may be written with hyphens or underscores.

    Args:
        function: The command.
        program: What help and errors call it.
    """
    import docstring_parser
    from jsonargparse import (  # type: ignore[attr-defined]  # ActionConfigFile is public, but not in its __all__
        ActionConfigFile,
        ArgumentParser,
        DefaultHelpFormatter,
    )

    class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keeps the paragraphs of a description."""

    description, _, _ = (inspect.getdoc(function) or "").partition("\nArgs:")
    parser = ArgumentParser(prog=program, description=description, formatter_class=HelpFormatter)
    parameters = inspect.signature(function).parameters
    if "config" not in parameters:
        parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with options of this command.")
    if "checkpoint" in parameters:
        text = "Packages, with commas between, whose classes a checkpoint may name: their code is imported and runs."
        parser.add_argument("--trust", type=str | None, help=text)
    if "json" in printed(function):
        parser.add_argument("--json", action="store_true", help="Print the result as a JSON object in place of text.")
    if "quiet" in printed(function):
        text = "Print nothing but what goes wrong."
        parser.add_argument("-q", "--quiet", action="store_true", help=text)
    flags = [p.name for p in parameters.values() if p.default is False]
    words = positional(function)
    skip: set[str | int] = {*flags, *(word.name for word in words)}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skip)
    texts = {p.arg_name.lstrip("*"): p.description for p in docstring_parser.parse(function.__doc__ or "").params}
    for word in words:
        several = word.kind is word.VAR_POSITIONAL
        options: dict[str, Any] = {"nargs": "+"} if several else {"nargs": "?", "default": word.default}
        parser.add_argument(word.name, type=word.annotation, help=texts.get(word.name), **options)
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true", help=texts.get(flag))
    return parser


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a command that Python takes by position only: optional words, and words in a row."""
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.VAR_POSITIONAL}]


def in_order(function: Callable[..., Any], args: list[str]) -> list[str]:
    """The words of a command line with options first where the command takes words in a row, which argparse wants so.

    Args:
        function: The command.
        args: The words after its name.
    """
    if not any(word.kind is word.VAR_POSITIONAL for word in positional(function)):
        return [_underscored(word) for word in args]
    flags = {"help", *printed(function)}
    flags |= {p.name for p in inspect.signature(function).parameters.values() if p.default is False}
    options, words, rest = list[str](), list[str](), iter(args)
    for word in rest:
        if word == "--":
            words += rest
        elif not word.startswith("--"):
            (options if word in {"-h", "-q"} else words).append(word)
        else:
            options.append(_underscored(word))
            if "=" not in word and options[-1][2:] not in flags:
                options += [value for value in [next(rest, None)] if value is not None]
    return [*options, *(["--"] if words else []), *words]


def _underscored(word: str) -> str:
    """An option's name with underscores, as parsers know it; values and other words stay as they are."""
    if not word.startswith("--"):
        return word
    name, separator, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{separator}{value}"


def printed(function: Callable[..., Any]) -> set[str]:
    """Names of the options on what a command prints: those whose functions of `output` its module uses.

    Args:
        function: The command.
    """
    used = vars(sys.modules[function.__module__])
    return {name for name, needed in (("quiet", "tell"), ("json", "result")) if needed in used}
