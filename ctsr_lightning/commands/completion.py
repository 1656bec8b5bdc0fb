"""Completion of words in shells, by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from ctsr_lightning.commands.parsers import command_parser, load_command

COMPLETION: Final = "--print-completion"
"""Option that prints the script."""
SHELLS: Final = ("bash", "zsh", "tcsh")
"""Shells that shtab knows."""


def completion(commands: Mapping[str, str], verbs: Mapping[str, str], shell: str) -> str:
    """The script that completes the words of `ctsr` in a shell.

    Args:
        commands: Where the functions of commands live, by name.
        verbs: Help of LightningCLI's verbs, of which the usual options are completed.
        shell: One of `SHELLS`.

    Raises:
        ImportError: If shtab is not there.
        ValueError: If it is another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"Expected a shell after {COMPLETION}, one of {', '.join(SHELLS)}, found '{shell}'.")
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            f"Expected the package shtab for {COMPLETION}, found none. Install it: pip install "
            "'ctsr-lightning[completion]'."
        ) from error
    root = argparse.ArgumentParser(prog="ctsr")
    root.add_argument("--version", action="store_true", help="Show the version.")
    below = root.add_subparsers()
    for name, text in verbs.items():
        parser = below.add_parser(name, help=text)
        for option in ("--config", "--ckpt_path"):
            parser.add_argument(option).complete = shtab.FILE  # type: ignore[attr-defined]
        parser.add_argument("--print_config", action="store_true", help="Print the configuration after applying all.")
    for name, place in commands.items():
        command = command_parser(load_command(place), f"ctsr {name}")
        parser = below.add_parser(name, help=(command.description or "").partition("\n")[0].replace("%", "%%"))
        for action in command._actions:
            _add(parser, action)
    for parser in below.choices.values():
        for action in parser._actions:
            if action.nargs != 0 and not action.choices and not hasattr(action, "complete"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # most options are files, or nothing to list
    return str(shtab.complete(root, shell=shell))


def _add(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Add what an option of a command looks like: jsonargparse's own actions are more than shells complete."""
    if isinstance(action, argparse._HelpAction):
        return
    text = (action.help or "").partition("\n")[0].replace("%", "%%")
    hyphened = [
        name.replace("_", "-") if name.startswith("--") else name for name in action.option_strings if name[-1] != "+"
    ]
    if action.nargs == 0:
        parser.add_argument(*hyphened, action="store_true", help=text)
        return
    choices = getattr(getattr(action, "_typehint", None), "__args__", None)
    literal = choices if choices and all(isinstance(choice, str) for choice in choices) else None
    parser.add_argument(*(hyphened or [action.dest]), choices=literal, help=text)
