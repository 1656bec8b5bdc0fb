"""LightningCLI over this package's trainings: what `ctsr fit | validate | test | predict` runs."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctsr_lightning.configs import find_in_words, take_nulls, with_nulls

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning import Callback, LightningModule, Trainer
    from lightning.pytorch.cli import LightningCLI

VERBS: Final = {
    "fit": "Train: a teacher, a codec, or a stage of CTSR.",
    "validate": "Evaluate on the validation images.",
    "test": "Evaluate on the test images.",
    "predict": "Restore the images of a data module and write them.",
}
"""Verbs of LightningCLI; `ctsr VERB --help` lists its options."""

MEASURING: Final = frozenset({"validate", "test"})
"""The verbs whose result are figures."""

PLUGIN_PACKAGES: Final = (
    *("cache", "callbacks", "codecs", "data", "degradation"),
    *("metrics", "models", "modules", "networks", "prompts", "teachers"),
)
"""Packages whose classes a configuration may name without their path."""

SCALED_PARTS: Final = (
    *("", "student.init_args.", "student.init_args.student.init_args.", "network.init_args."),
    "student.init_args.network.init_args.",
    *(f"{teacher}.init_args." for teacher in ("teacher", "fidelity", "realness", "target")),
    *(f"{teacher}.init_args.network.init_args." for teacher in ("fidelity", "realness", "target")),
)
"""Where a training keeps the scale that has to be the data's; a part that a training lacks is passed over."""

INITIAL: Final = "none"
"""What `--ckpt_path` names the weights by that a training begins with."""

INTERRUPTED: Final = 130
"""Exit code of a process ended by Ctrl-C: 128 + SIGINT."""


def training_cli(args: list[str], run: bool = True) -> LightningCLI:
    """Build LightningCLI over the trainings and run it.

    Args:
        args: `fit | validate | test | predict` and its options.
        run: Run the verb. If False, `args` holds options only, and what was configured is built but not run.

    Returns:
        The command line, with `model`, `datamodule` and `trainer`.
    """
    from lightning import LightningDataModule

    from ctsr_lightning.callbacks import TrainingStatistics
    from ctsr_lightning.callbacks.run_folder import RunConfiguration
    from ctsr_lightning.modules.base import TrainingModule

    import_plugins()
    with warnings.catch_warnings():
        # Lightning 2.6 uses names that torch 2.15 and jsonargparse 4.49 deprecate; nothing a user could change.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        deprecated = r"(?s)\s.*(JSONARGPARSE_|deprecated in v4)"
        warnings.filterwarnings("ignore", message=deprecated, category=DeprecationWarning)
        return _cli_class()(
            TrainingModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=RunConfiguration,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": TrainingStatistics()},
            parser_kwargs={"prog": "ctsr", "parser_mode": "omegaconf"}
            | {verb: {"parser_mode": "omegaconf", "usage": f"ctsr {verb} --config FILE [OPTIONS]"} for verb in VERBS},
            args=find_in_words(args),
            run=run,
        )


def fit(config: str | Path, *options: str, **trainer: Any) -> LightningModule:
    """Train as `ctsr fit --config CONFIG OPTIONS` does.

    Args:
        config: A configuration, a file or the name of one that comes with the package, such as `nano/stage2.yaml`.
        *options: Further words of the command line, such as `--data.train=[photos]`.
        **trainer: Options of the trainer, such as `max_steps=1000`.

    Returns:
        The trained module, on the device where it was trained.
    """
    settings = [f"--trainer.{name}={value}" for name, value in trainer.items()]
    model: LightningModule = training_cli(["fit", "--config", str(config), *options, *settings]).model
    return model


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

    from ctsr_lightning.callbacks.checkpoint_files import use_checkpoint_files
    from ctsr_lightning.callbacks.distributed import check_strategy
    from ctsr_lightning.callbacks.progress_lines import use_plain_lines
    from ctsr_lightning.callbacks.run_folder import resume_last
    from ctsr_lightning.modules.base import configured
    from ctsr_lightning.weights.search import weight_search_path

    class TrainingCLI(LightningCLI):
        """LightningCLI where typed options win, checks agree across model and data, and Ctrl-C says how to go on."""

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            """Parse `args`, whatever `sys.argv` holds: tests and notebooks have words of their own there."""
            self.words = list(args) if isinstance(args, list) else sys.argv[1:]
            words, nulls = take_nulls(self.words)
            self.config = with_nulls(parser.parse_args(words), nulls)

        def _parse_ckpt_path(self) -> None:
            """Leave the configuration alone: what the user typed wins over what a checkpoint remembers."""

        def before_instantiate_classes(self) -> None:
            """Say the scale once, and keep a training's configuration when it is tested into the same folder."""
            link_scale(self.config[self.subcommand] if self.subcommand else self.config)
            if self.subcommand not in {None, "fit"}:
                self.save_config_kwargs = {**self.save_config_kwargs, "config_filename": f"{self.subcommand}.yaml"}

        def instantiate_classes(self) -> None:
            """Build everything; a package that is not trained finds its weights wherever it is."""
            files = configuration_files(self.subcommand, self.config)
            with configured(), weight_search_path(*(parent for file in files for parent in file.parents)):
                super().instantiate_classes()

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            """Build the trainer, whose own folder is the run's: what Lightning leaves or looks for belongs there."""
            settings = self._get(self.config_init, "trainer", default={})
            check_strategy(settings.get("strategy"))
            folder = settings.get("default_root_dir") or getattr(settings.get("logger"), "log_dir", None)
            trainer = super().instantiate_trainer(**{"default_root_dir": folder, **kwargs})
            use_checkpoint_files(trainer)
            return use_plain_lines(trainer)

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            files = configuration_files(subcommand, self.config)
            arguments = load_finished(subcommand, super()._prepare_subcommand_kwargs(subcommand), files)
            return resume_last(arguments, self.trainer, fits=subcommand == "fit")

        def _run_subcommand(self, subcommand: str) -> None:
            measure_by_default(subcommand, self.trainer, self.model)
            tell_what_is_not_kept(subcommand, self.trainer)
            with ending_in_words(self.trainer, self.words, self.config[subcommand]):
                super()._run_subcommand(subcommand)
                require_figures(subcommand, self.trainer)

    return TrainingCLI


def configuration_files(verb: str | None, config: Namespace) -> list[Path]:
    """A run's configuration files; none for a training, which names its weights itself.

    Args:
        verb: The verb; None if nothing is run.
        config: The parsed command line.
    """
    files = (config[verb].get("config") or []) if verb not in {None, "fit"} else []
    return [Path(str(file)).resolve() for file in files]


def load_finished(verb: str, arguments: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    """Load the weights that a finished training has left, as Lightning reads its own checkpoints only.

    These are a `weights.safetensors` given as checkpoint or, if none is given, the one beside the configuration.
    `none` given as checkpoint keeps the weights that a training of this configuration would begin with.

    Args:
        verb: The verb; a training is not resumed from such a file.
        arguments: What the trainer is called with.
        files: The configuration files.

    Returns:
        The arguments, without a checkpoint where weights were loaded.

    Raises:
        ValueError: If the weights do not fit, or there are none.
    """
    from ctsr_lightning.callbacks.writer import WEIGHTS_FILE
    from ctsr_lightning.weights.reading import load_weights

    path = arguments.get("ckpt_path")
    if verb == "fit" or (path not in {None, INITIAL} and Path(path).suffix != ".safetensors"):
        return arguments
    if path == INITIAL:
        return {**arguments, "ckpt_path": None}
    found = [file.with_name(WEIGHTS_FILE) for file in reversed(files) if file.with_name(WEIGHTS_FILE).is_file()]
    if path is None and not found:
        raise ValueError(
            f"Expected trained weights to {verb}, found no --ckpt_path and no '{WEIGHTS_FILE}' beside the "
            f"configuration. Name a checkpoint or such a file, or say --ckpt_path {INITIAL} to {verb} with the weights "
            "that a training would begin with."
        )
    if path is None:
        print(f"ctsr: no --ckpt_path; taking '{found[0]}', which lies beside the configuration.", file=sys.stderr)
    load_weights(arguments["model"], path or found[0], only_trainable=True)
    return {**arguments, "ckpt_path": None}


def measure_by_default(verb: str, trainer: Trainer, model: LightningModule) -> None:
    """Add `Evaluation` where a configuration names none, as those of packages do, and say so on standard error.

    Args:
        verb: The verb; only those of `MEASURING` measure.
        trainer: The trainer.
        model: The training; one that restores no images, or measures its losses, is left alone.
    """
    from ctsr_lightning.callbacks import Evaluation
    from ctsr_lightning.metrics.perceptual import perceptual_distance

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    known = any(isinstance(callback, Evaluation) for callback in callbacks)
    if verb in MEASURING and hasattr(model, "restore") and not (known or getattr(model, "validates_losses", False)):
        distance = perceptual_distance()
        callbacks.append(Evaluation(perceptual=distance))
        if trainer.is_global_zero:
            text = f"the configuration names no Evaluation; measuring psnr_y, ssim_y and {distance.name}."
            print(f"ctsr: {text}", file=sys.stderr)


def tell_what_is_not_kept(verb: str, trainer: Trainer) -> None:
    """Say on standard error that a training will leave no weights file: a second --config replaces all callbacks.

    Args:
        verb: The verb; only `fit` trains.
        trainer: The trainer.
    """
    from ctsr_lightning.callbacks import LastCheckpoint, WeightsWriter

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kinds = {WeightsWriter: "weights.safetensors", LastCheckpoint: "last.ckpt to go on from"}
    missing = {kind.__name__: file for kind, file in kinds.items() if not any(isinstance(c, kind) for c in callbacks)}
    if verb == "fit" and missing and trainer.is_global_zero:
        names, files = " and ".join(missing), " and ".join(missing.values())
        text = f"trainer.callbacks has no {names}, so this training leaves no {files}."
        print(f"ctsr: {text}", file=sys.stderr)


def require_figures(verb: str, trainer: Trainer) -> None:
    """Refuse a run that was to measure something and has measured nothing.

    Args:
        verb: The verb; only those of `MEASURING` measure.
        trainer: The trainer after the run.

    Raises:
        ValueError: If nothing was logged.
    """
    if verb in MEASURING and not trainer.callback_metrics:
        raise ValueError(
            f"Expected figures from ctsr {verb}, but nothing was measured: the training restores no images and logs "
            "no losses, or there were no images. Check --data and the trainer's limits on batches."
        )


def link_scale(config: Namespace) -> None:
    """Give model and teachers the data's scale, wherever a training keeps it.

    jsonargparse's own links cannot do this: in 4.53 they fail beneath a `class_path` that names a function.

    Args:
        config: The parsed configuration, changed in place.
    """
    scale = config.get("data.init_args.scale")
    for part in SCALED_PARTS:
        target = f"model.init_args.{part}scale"
        if scale is not None and target in config:
            config[target] = scale


@contextmanager
def ending_in_words(trainer: Trainer, words: list[str], config: Namespace) -> Iterator[None]:
    """Within this context an interrupted run says how to go on, and a lost process is named.

    Args:
        trainer: The trainer.
        words: The command line after `ctsr`.
        config: The verb's configuration.

    Raises:
        SystemExit: If the run was interrupted, by Ctrl-C or another signal.
        ValueError: If processes have ended.
    """
    from ctsr_lightning.callbacks.distributed import lost_processes
    from ctsr_lightning.callbacks.run_folder import goes_on_by_itself
    from ctsr_lightning.callbacks.stopping import Stopped

    try:
        yield
    except SystemExit as stop:  # at a signal, or Lightning has handled Ctrl-C: loggers are closed
        if not trainer.interrupted:
            raise
        code = stop.code if isinstance(stop, Stopped) else INTERRUPTED
        if not trainer.is_global_zero:  # who has started this process takes anything but 0 for a failure
            raise SystemExit(0 if isinstance(stop, Stopped) else code) from None
        again = words[:1] == ["fit"] and goes_on_by_itself(trainer, config)
        print(f"ctsr: {how_to_continue(trainer, words, again)}", file=sys.stderr)
        raise SystemExit(code) from None
    except RuntimeError as error:
        if (message := lost_processes(trainer, error)) is None:
            raise
        raise ValueError(message) from error


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
