"""The command line: training verbs through LightningCLI, every other command a plain typed function.

Commands are dispatched before LightningCLI is built and import torch only when they run, so that help answers at once.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import logging
import os
import pkgutil
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ctsr_lightning import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from lightning import Trainer
    from lightning.pytorch.cli import LightningCLI

COMMANDS: Final = {
    "upscale": "ctsr_lightning.commands.upscale:upscale",
    "sweep": "ctsr_lightning.commands.sweep:sweep",
}
"""Commands beside the training verbs: where the function lives, imported when it is asked for."""

VERBS: Final = {
    "fit": "Train: a teacher, a codec, or a stage of CTSR.",
    "validate": "Evaluate on the validation images.",
    "test": "Evaluate on the test images.",
    "predict": "Restore the images of a data module and write them.",
}
"""What LightningCLI does; `ctsr VERB --help` lists its options."""

PLUGIN_PACKAGES: Final = ("callbacks", "data", "metrics", "modules", "networks", "teachers")
"""Packages whose classes a configuration may name without their path."""

SCALED_PARTS: Final = ("", "student.init_args.", "network.init_args.")
"""Where a training keeps the enlargement that has to be the data's; a part that a training lacks is passed over."""

TRACEBACK_VARIABLE: Final = "CTSR_TRACEBACK"
INTERRUPTED: Final = 130
"""Exit code of a process ended by Ctrl-C: 128 + SIGINT."""


def main(args: list[str] | None = None) -> None:
    """Run `ctsr`.

    Args:
        args: The words after `ctsr`; None takes them from the command line.
    """
    argv = sys.argv[1:] if args is None else list(args)
    _silence_adverts()
    if not argv or argv[0] in {"-h", "--help"}:
        print(overview())
        return
    if argv[0] == "--version":
        print(f"ctsr {__version__}")
        return
    try:
        if argv[0] in COMMANDS:
            run_command(argv[0], argv[1:])
        elif argv[0] in VERBS:
            training_cli(argv)
        else:
            known = ", ".join([*VERBS, *COMMANDS])
            _exit(f"'{argv[0]}' is not a command. Expected one of {known}; see ctsr --help.", 2)
    except KeyboardInterrupt:
        _exit("interrupted", INTERRUPTED)
    except Exception as error:
        cause = user_error(error)
        if cause is None or os.environ.get(TRACEBACK_VARIABLE, "0") not in {"", "0"}:
            raise
        _exit(f"{cause}\n({TRACEBACK_VARIABLE}=1 shows where this was raised.)", 1)


def overview() -> str:
    """The text of `ctsr --help`."""
    commands = {name: (inspect.getdoc(load_command(name)) or "").partition("\n")[0] for name in COMMANDS}
    lines = [
        "usage: ctsr COMMAND [OPTIONS]        ctsr COMMAND --help lists the options",
        "",
        "Controllable fidelity-realness trade-off super-resolution.",
        "",
        "Training and evaluation (LightningCLI):",
        *(f"  {name:<10} {text}" for name, text in VERBS.items()),
        "",
        "Using a model:",
        *(f"  {name:<10} {text}" for name, text in commands.items()),
        "",
        "Options:",
        "  -h, --help     Show this text.",
        "  --version      Show the version.",
        "",
        "Examples:",
        "  ctsr fit --config configs/nano/stage2.yaml",
        "  ctsr upscale photos/ restored/ --checkpoint runs/stage2/last.ckpt --control 0,0.5,1",
    ]
    return "\n".join(lines)


def load_command(name: str) -> Callable[..., Any]:
    """Import the function behind a command of `COMMANDS`."""
    module, _, function = COMMANDS[name].partition(":")
    command: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return command


def run_command(name: str, args: list[str]) -> None:
    """Parse the arguments of a command and call it; an integer it returns is the exit code.

    Args:
        name: A key of `COMMANDS`.
        args: The words after it.
    """
    parser = command_parser(name)
    options = parser.parse_args(args).as_dict()
    options.pop("config")
    code = load_command(name)(**options)
    if code:
        raise SystemExit(code)


def command_parser(name: str) -> ArgumentParser:
    """Turn a command's signature and docstring into a parser: `flag: bool = False` becomes a bare `--flag`.

    Args:
        name: A key of `COMMANDS`.
    """
    import docstring_parser
    from jsonargparse import (  # type: ignore[attr-defined]  # ActionConfigFile is public, but not in its __all__
        ActionConfigFile,
        ArgumentParser,
        DefaultHelpFormatter,
    )

    class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keeps the paragraphs of a description."""

    function = load_command(name)
    description, _, _ = (inspect.getdoc(function) or "").partition("\nArgs:")
    parser = ArgumentParser(prog=f"ctsr {name}", description=description, formatter_class=HelpFormatter)
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with options of this command.")
    flags = [p.name for p in inspect.signature(function).parameters.values() if p.default is False]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(flags))
    texts = {p.arg_name: p.description for p in docstring_parser.parse(function.__doc__ or "").params}
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true", help=texts.get(flag))
    return parser


def training_cli(args: list[str], run: bool = True) -> LightningCLI:
    """Build LightningCLI over the trainings and run it.

    Args:
        args: `fit | validate | test | predict` and its options.
        run: Run the verb. If False, `args` holds options only, and what was configured is built but not run.

    Returns:
        The command line, with `model`, `datamodule` and `trainer`.
    """
    from lightning import LightningDataModule

    from ctsr_lightning.modules.base import TrainingModule

    # Lightning 2.6 uses names that torch 2.15 and jsonargparse 4.49 deprecate; nothing a user could change.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"(?s)\s.*(JSONARGPARSE_|deprecated in v4)", category=DeprecationWarning)
    import_plugins()
    return _cli_class()(
        TrainingModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "ctsr", "parser_mode": "omegaconf"}
        | {verb: {"parser_mode": "omegaconf", "usage": f"ctsr {verb} --config FILE [OPTIONS]"} for verb in VERBS},
        args=args,
        run=run,
    )


def import_plugins() -> None:
    """Import every module whose classes a configuration may name by class name alone."""
    for name in PLUGIN_PACKAGES:
        package = importlib.import_module(f"ctsr_lightning.{name}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


@functools.cache
def _cli_class() -> type[LightningCLI]:
    """The LightningCLI of this package; a function, so that importing this file does not import Lightning."""
    from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

    class TrainingCLI(LightningCLI):
        """LightningCLI where typed options win, checks agree across model and data, and Ctrl-C says how to go on."""

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            """Parse `args`, whatever `sys.argv` holds: tests and notebooks have words of their own there."""
            self.words = list(args) if isinstance(args, list) else sys.argv[1:]
            self.config = parser.parse_args(self.words)

        def _parse_ckpt_path(self) -> None:
            """Leave the configuration alone: what the user typed wins over what a checkpoint remembers."""

        def before_instantiate_classes(self) -> None:
            """Say the scale once, and keep a training's configuration when it is tested into the same folder."""
            link_scale(self.config[self.subcommand] if self.subcommand else self.config)
            if self.subcommand not in {None, "fit"}:
                self.save_config_kwargs = {**self.save_config_kwargs, "config_filename": f"{self.subcommand}.yaml"}

        def _run_subcommand(self, subcommand: str) -> None:
            try:
                super()._run_subcommand(subcommand)
            except SystemExit:  # Lightning has handled Ctrl-C: callbacks ran, loggers are closed
                if not self.trainer.interrupted:
                    raise
                if self.trainer.is_global_zero:
                    resumes = subcommand == "fit" and self.config["fit"].get("ckpt_path") == "last"
                    print(f"ctsr: {how_to_continue(self.trainer, self.words, resumes)}", file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None

    return TrainingCLI


def link_scale(config: Namespace) -> None:
    """Give the model the data's enlargement, wherever a training keeps it.

    jsonargparse's own links cannot do this: in 4.53 they fail beneath a `class_path` that names a function.

    Args:
        config: The parsed configuration, changed in place.
    """
    scale = config.get("data.init_args.scale")
    for part in SCALED_PARTS:
        target = f"model.init_args.{part}scale"
        if scale is not None and target in config:
            config[target] = scale


def how_to_continue(trainer: Trainer, words: list[str], resumes: bool) -> str:
    """Tell where an interrupted run stopped and what to type next.

    Args:
        trainer: The trainer that was interrupted.
        words: The command line after `ctsr`.
        resumes: Whether that command line starts from the last checkpoint by itself.
    """
    if words[:1] != ["fit"]:
        return "interrupted."
    stopped = f"interrupted at step {trainer.global_step}"
    callbacks = trainer.checkpoint_callbacks
    saved = [getattr(c, name, "") for name in ("last_model_path", "best_model_path") for c in callbacks]
    path = next((p for p in saved if p), None)
    if path is None:
        return f"{stopped}; no checkpoint was written yet, so the same command starts from the beginning."
    if resumes:
        return f"{stopped}. The same command continues from {path}."
    return f"{stopped}. To continue: {shlex.join(['ctsr', *words, '--ckpt_path', path])}"


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
    if isinstance(error, OSError):
        concerned = isinstance(error, FileNotFoundError) or error.filename is not None
    elif isinstance(error, ValueError) or (isinstance(error, ImportError) and error.name is None):
        concerned = raised_by.startswith(("ctsr_lightning.", "lightning.pytorch.trainer.connectors."))
    else:
        concerned = type(error).__name__ == "MisconfigurationException"  # by name: Lightning may not be imported
    return error if concerned else None


def _raised_by(error: BaseException) -> str:
    """The name of the module that raised an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def _exit(message: str, code: int) -> None:
    print(f"ctsr: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def _silence_adverts() -> None:
    """Drop log lines that advertise products or report unused 4-bit kernels; everything else passes."""
    for logger, text in (
        ("lightning.pytorch.utilities.rank_zero", "Tip: For seamless"),
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
