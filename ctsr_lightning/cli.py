"""The command line: training verbs through LightningCLI, every other command a plain typed function.

Commands are dispatched before LightningCLI is built and import torch only when they run, so that help appears at once.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ctsr_lightning import __version__
from ctsr_lightning.commands.completion import COMPLETION, completion
from ctsr_lightning.commands.options import refuse_empty, trusted
from ctsr_lightning.commands.output import Manner, printing
from ctsr_lightning.commands.parsers import command_parser, in_order, load_command, positional
from ctsr_lightning.training import INTERRUPTED, VERBS, training_cli

COMMANDS: Final = {
    "upscale": "ctsr_lightning.commands.upscale:upscale",
    "evaluate": "ctsr_lightning.commands.evaluate:evaluate",
    "sweep": "ctsr_lightning.commands.sweep:sweep",
    "benchmark": "ctsr_lightning.commands.benchmark:benchmark",
    "cache": "ctsr_lightning.commands.cache:cache",
    "tag": "ctsr_lightning.commands.tag:tag",
    "export": "ctsr_lightning.commands.export:export",
    "serve": "ctsr_lightning.commands.serve:serve",
    "configs": "ctsr_lightning.commands.configs:configs",
}
"""Commands beside the training verbs: where the function lives, imported when the command runs."""

CLOSED: Final = 141
"""Exit code where standard output was closed early: 128 + SIGPIPE."""

TRACEBACK_VARIABLE: Final = "CTSR_TRACEBACK"

_OF_SETTINGS: Final = (
    "lightning.pytorch.trainer.connectors.",
    "lightning.fabric.accelerators.",
    "lightning.fabric.utilities.device_parser",
    "lightning.fabric.utilities.seed",
)
"""Modules of other packages whose every ValueError and TypeError is about a user's settings."""
_IN_WORKER: Final = re.compile(
    r"\ACaught \w+ in DataLoader worker process[\s\S]*\n  File \".*ctsr_lightning.*\n    .*\n(?:[ ~^]*\n)?"
    r"[\w.]*(?:ValueError|FileNotFoundError|UnreadableImageError): ([\s\S]*)\Z"
)
"""What a process of a data loader hands on of an error that this package raised there: its traceback as text."""


def main(args: list[str] | None = None) -> None:
    """Run `ctsr`.

    Args:
        args: The words after `ctsr`; None takes them from the command line.
    """
    argv = sys.argv[1:] if args is None else list(args)
    report_errors(lambda: _run(argv), argv)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in {"-h", "--help"}:
        print(overview())
    elif argv[0] == "--version":
        print(f"ctsr {__version__}")
    elif argv[0] == COMPLETION:
        print(completion(COMMANDS, VERBS, argv[1] if len(argv) > 1 else ""))
    elif argv[0] in COMMANDS:
        run_command(COMMANDS[argv[0]], argv[1:], f"ctsr {argv[0]}")
    elif argv[0] in VERBS:
        training_cli(argv)
    else:
        known = ", ".join([*VERBS, *COMMANDS])
        _exit(f"'{argv[0]}' is not a command. Expected one of {known}; see ctsr --help.", 2)


def report_errors(work: Callable[[], None], words: Sequence[str] = ()) -> None:
    """Do the work of a command line; what is wrong with files and settings ends it with a message and exit code 1.

    Args:
        work: What to do.
        words: The command line, whose configuration files are named where a value of theirs is missing.
    """
    # Threads of torch on a CPU wait for each other by spinning, by default for ever: where another program took a core,
    # a training step was measured to take forty times as long. A short spin costs nothing and cannot do that.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _write_anything()
    _silence_adverts()
    try:
        work()
    except KeyboardInterrupt:
        _exit("interrupted", INTERRUPTED)
    except BrokenPipeError:  # who read standard output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED) from None
    except Exception as error:
        cause = _unset(error, words) or _apart(error) or user_error(error)
        if cause is None or os.environ.get(TRACEBACK_VARIABLE, "0") not in {"", "0"}:
            raise
        _exit(f"{cause}\n({TRACEBACK_VARIABLE}=1 shows where this was raised.)", 1)


def overview() -> str:
    """The text of `ctsr --help`."""
    lines = [
        "usage: ctsr COMMAND [OPTIONS]        ctsr COMMAND --help lists the options",
        "",
        "Controllable fidelity-realness trade-off super-resolution.",
        "",
        "Training and evaluation (LightningCLI):",
        *(f"  {name:<10} {text}" for name, text in VERBS.items()),
        "",
        "Using a model:",
        *describe_commands(COMMANDS),
        "",
        "Options:",
        "  -h, --help     Show this text.",
        "  --version      Show the version.",
        "  --print-completion SHELL  Print the completion of words for bash, zsh or tcsh; see the page `Use`.",
        "",
        "Examples:",
        "  ctsr fit --config nano/stage2.yaml",
        "  ctsr upscale photos/ restored/ --control 0,0.5,1",
    ]
    return "\n".join(lines)


def describe_commands(commands: Mapping[str, str]) -> list[str]:
    """A line of help for each command of a table such as `COMMANDS`."""
    texts = {name: inspect.getdoc(load_command(place)) or "" for name, place in commands.items()}
    return [f"  {name:<10} {text.partition(chr(10))[0]}" for name, text in texts.items()]


def run_command(place: str, args: list[str], program: str) -> None:
    """Parse the arguments of a command and call it; an integer it returns is the exit code.

    Args:
        place: Where its function lives, `module:function`.
        args: The words after its name.
        program: What help and errors call it, such as `ctsr upscale`.
    """
    function = load_command(place)
    options = command_parser(function, program).parse_args(in_order(function, args)).as_dict()
    if "config" not in inspect.signature(function).parameters:
        options.pop("config")
    refuse_empty(function, options)
    packages = options.pop("trust", None)
    words = [options.pop(parameter.name) for parameter in positional(function)]
    several = words.pop() if any(p.kind is p.VAR_POSITIONAL for p in positional(function)) else []
    manner = Manner(options.pop("quiet", False), options.pop("json", False))
    with trusted(packages), printing(manner):
        code = function(*words, *several, **options)
    if code:
        raise SystemExit(code)


def user_error(error: BaseException) -> BaseException | None:
    """The exception to show by its message alone, because it is about the user's files and settings; None if not.

    Such are files that cannot be opened, Lightning's complaints about settings, and a ValueError (or an ImportError
    that names an extra to install) that this package itself raises: those messages are written for users. jsonargparse
    wraps what a constructor raises, so its exceptions are looked through.

    Args:
        error: What was raised.
    """
    raised_by = _raised_by(error)
    if raised_by.startswith("jsonargparse.") and error.__cause__ is not None:
        return user_error(error.__cause__)
    if told := _IN_WORKER.search(str(error)):
        return ValueError(told.group(1)) if told.group(1).strip() else None
    if isinstance(error, OSError):
        concerned = isinstance(error, FileNotFoundError) or error.filename is not None
    elif isinstance(error, ValueError) or (isinstance(error, ImportError) and error.name is None):
        concerned = raised_by.startswith(("ctsr_lightning.", "recipes.", *_OF_SETTINGS))
    elif isinstance(error, TypeError):
        concerned = raised_by.startswith(_OF_SETTINGS)
    else:
        concerned = type(error).__name__ == "MisconfigurationException"  # by name: Lightning may not be imported
    return error if concerned else None


def _unset(error: BaseException, words: Sequence[str]) -> ValueError | None:
    """The error for an interpolation of a configuration that has no value, such as that of an unset variable."""
    if type(error).__module__ != "omegaconf.errors":  # by name: importing omegaconf takes time
        return None
    reason, *place = str(error).splitlines()
    missing = re.search(r"variable '(\w+)'", reason) or re.search(r"'(\w+)'", reason)
    name = missing.group(1) if missing else ""
    files = [path for path in map(Path, words) if path.suffix in {".yaml", ".yml"} and path.is_file()]
    files = [path for path in files if name in path.read_text(encoding="utf-8", errors="replace")] or files
    where = ", ".join(f"'{path}'" for path in files) or "the configuration"
    key = next((line.split(":", 1)[1].strip() for line in place if "full_key" in line), "")
    return ValueError(
        f"Expected a value for what {where} names{f' at {key}' if key else ''}, found none: {reason} Set it, or give a "
        f"default: ${{oc.env:{name or 'NAME'},default}}."
    )


def _apart(error: BaseException) -> ValueError | None:
    """The error for processes on several machines that cannot connect to each other."""
    if not (isinstance(error, RuntimeError) and "connectFullMesh" in str(error)):
        return None
    return ValueError(
        "Expected the processes to reach each other, but a connection between them failed; mostly because a machine's "
        "name stands for 127.0.0.1 there. Name the network interface between the machines (`ip addr` lists them) on "
        f"each: export GLOO_SOCKET_IFNAME=eth0. ({str(error).splitlines()[0].rpartition('] ')[2]})"
    )


def _raised_by(error: BaseException) -> str:
    """The name of the module that raised an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def _exit(message: str, code: int) -> None:
    print(f"ctsr: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def _write_anything() -> None:
    """Let standard output and error show what their encoding lacks, such as an arrow or a file's name, by its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence_adverts() -> None:
    """Drop log lines that advertise products, or are about ways to compute and read that nothing here takes."""
    for logger, text in (
        ("lightning.pytorch.utilities.rank_zero", "Tip: For seamless"),
        ("lightning.pytorch.trainer.connectors.checkpoint_connector", "`weights_only` was not set"),  # ours is always
        ("bitsandbytes.backends.cpu.ops", "gemm_4bit_forward"),
    ):
        logging.getLogger(logger).addFilter(_Without(text))


class _Without(logging.Filter):
    """Drops records whose message contains a text.

    Args:
        text: The text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __eq__(self, other: object) -> bool:  # addFilter adds equal filters once
        return isinstance(other, _Without) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        return self.text not in str(record.msg)


if __name__ == "__main__":
    main()
