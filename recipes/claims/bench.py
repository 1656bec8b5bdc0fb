"""Where the experiments of `make claims` are done: short trainings by the nano configurations, all examined alike."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recipes.chain import WEIGHTS
from recipes.claims.plan import BASE, BATCH, FULL, STEPS, Experiment, Group, read_config
from recipes.claims.records import Record, digest, listing, transposed

LINKS: Final = ("codec", "prior", "fidelity_teacher", "realness_teacher")
"""The trainings of the chain that every experiment builds on."""
KEPT: Final = frozenset({"EMA", "WeightsWriter"})
"""Callbacks of the configurations that a short training needs; the others look at it on the way."""

ANNOUNCERS: Final = ("lightning.pytorch", "lightning.fabric", "ctsr_lightning.metrics.perceptual")
"""Loggers that tell for every training which device, seed and perceptual distance it has; records hold these."""


@dataclass(frozen=True)
class Setup:
    """What all experiments have in common.

    Args:
        configs: Folder of the nano configurations.
        chain: Folder of the finished chain.
        data: Folder of photographs to train on; None for the sample photographs.
        test: Folder of photographs to measure on; None for the held-out sample photographs.
        work: Folder for records and trainings.
        steps: Factor on the length of every training.
        device: Accelerator for Lightning.
        precision: Lightning's precision for training; everything is measured in float32.
    """

    configs: Path
    chain: Path
    data: Path | None
    test: Path | None
    work: Path
    steps: float
    device: str
    precision: str

    def training_steps(self, group: Group) -> int:
        """Optimizer steps of one training.

        Args:
            group: What is trained.
        """
        return max(2, round(STEPS[group] * self.steps))


class Bench:
    """Trains and measures experiments.

    The test images, their degradation and what the teachers make of them are the same for all experiments, and with the
    same seed all trainings of a stage see the same crops in the same order: differences are paired.

    Args:
        setup: What all experiments have in common.

    Raises:
        ValueError: If a test photograph is trained on as well.
    """

    def __init__(self, setup: Setup) -> None:
        from recipes.claims.exam import Exam, photographs

        self.setup = setup
        self.photos = photographs(setup.data)
        self._hashes: dict[Path, str] = {}
        self.exam = Exam(setup.test, setup.device, self._student_and_teachers)
        common = {path.resolve() for path in self.photos} & {path.resolve() for path in self.exam.photos}
        if common:
            raise ValueError(
                f"Expected photographs to measure on that are not trained on, found {len(common)} in both "
                f"('{min(common).name}'). Name other folders with --data and --test."
            )

    def settings(self, experiment: Experiment, base: Experiment | None = None) -> dict[str, Any]:
        """All that an experiment's result depends on, as plain values.

        Args:
            experiment: The experiment.
            base: The experiment whose weights it starts from.
        """
        from ctsr_lightning import __version__

        setup, group = self.setup, experiment.variation.group
        links = (*LINKS, "stage1", "stage2") if experiment.variation.name == FULL else LINKS
        settings: dict[str, Any] = {
            "experiment": experiment.variation.key,
            "version": __version__,
            "chain": {name: self._hash(setup.chain / name / WEIGHTS) for name in links},
            **self.exam.settings(),
        }
        if group == "chain":
            return settings
        settings |= {
            "seed": experiment.seed,
            "overrides": dict(experiment.variation.overrides),
            "configuration": digest(self._decisive(group)),
            "data": listing(self.photos, setup.data),
            "steps": setup.training_steps(group),
            "batch": BATCH,
            "precision": setup.precision,
        }
        return settings if base is None else {**settings, "start": digest(self.settings(base))}

    def folder(self, experiment: Experiment, base: Experiment | None = None) -> Path:
        """Where a training leaves its logs and weights.

        Args:
            experiment: The experiment.
            base: The experiment whose weights it starts from.
        """
        return self.setup.work / "trainings" / f"{experiment.stem}-{digest(self.settings(experiment, base))}"

    def has_weights(self, experiment: Experiment) -> bool:
        """Whether the weights that another experiment starts from are there.

        Args:
            experiment: The experiment that left them.
        """
        return (self.folder(experiment) / WEIGHTS).is_file()

    def run(self, experiment: Experiment, base: Experiment | None = None) -> Record:
        """Train and measure an experiment. Only the weights of trainings as configured stay.

        Args:
            experiment: The experiment.
            base: The experiment whose weights it starts from.

        Raises:
            FileNotFoundError: If weights are missing.
            SystemExit: If the training is interrupted by Ctrl-C.
        """
        from ctsr_lightning.evaluation.report import versions
        from ctsr_lightning.inference.devices import describe_device

        seconds, start = {}, time.perf_counter()
        group, trained = experiment.variation.group, experiment.variation.group != "chain"
        weights = self.setup.chain / "stage2" / WEIGHTS
        made: dict[str, Any] = {"device": describe_device(self.exam.device), "versions": versions()}
        if trained:
            weights = self._train(experiment, base)
            seconds["training"] = time.perf_counter() - start
            made["steps"] = self.setup.training_steps(group)
        start = time.perf_counter()
        rows = self.exam.measure(experiment.variation, weights)
        seconds["evaluation"] = time.perf_counter() - start
        if trained and experiment.variation.name != BASE:
            weights.unlink()
        return Record(experiment.variation.key, *transposed(rows), seconds, made)

    def words(self, experiment: Experiment, base: Experiment | None = None) -> list[str]:
        """The command line of a training, after `ctsr fit`.

        Args:
            experiment: The experiment.
            base: The experiment whose weights it starts from.
        """
        setup, group, folder = self.setup, experiment.variation.group, self.folder(experiment, base)
        steps = setup.training_steps(group)
        options: dict[str, Any] = {
            "seed_everything": experiment.seed,
            "trainer.max_steps": steps,
            "trainer.accelerator": setup.device,
            "trainer.devices": 1,
            "trainer.precision": setup.precision,
            "trainer.limit_val_batches": 0,
            "trainer.log_every_n_steps": min(10, steps),
            "trainer.enable_progress_bar": False,
            "trainer.enable_model_summary": False,
            "trainer.callbacks": self._decisive(group)["callbacks"],
            "trainer.logger.init_args.save_dir": str(folder.parent),
            "trainer.logger.init_args.name": folder.name,
            "data.init_args.seed": experiment.seed,
            "data.init_args.batch_size": BATCH,
            "data.init_args.samples_per_epoch": steps * BATCH,
            "data.init_args.pool": None,  # every crop is a new one
            "model.init_args.scheduler.init_args.warmup_steps": steps // 10,
        }
        if setup.data is not None:
            options |= {"data.init_args.train": [str(setup.data)], "data.init_args.val_split": 0}
        if base is not None:
            start = str(self.folder(base) / WEIGHTS)
            options |= {
                "model.init_args.student.init_args.weights": start,
                "model.init_args.velocity.init_args.unet.init_args.weights": start,
            }
        options |= {f"model.init_args.{name}": value for name, value in experiment.variation.overrides.items()}
        words = ["--config", str(setup.configs / f"{group}.yaml")]
        for name, value in options.items():
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return words

    def _decisive(self, group: Group) -> dict[str, Any]:
        """What of a configuration a short training depends on: its length, for one, is another."""
        config = read_config(self.setup.configs, group)
        trainer = config.get("trainer", {})
        names = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
        callbacks = [
            callback
            for callback in trainer.get("callbacks", [])
            if callback["class_path"].rsplit(".", maxsplit=1)[-1] in KEPT
        ]
        settings = {name: trainer[name] for name in names if name in trainer}
        return {"model": config["model"], "data": config.get("data"), **settings, "callbacks": callbacks}

    def _train(self, experiment: Experiment, base: Experiment | None) -> Path:
        """Run a short training through the command line of the trainings."""
        from ctsr_lightning.training import training_cli

        folder = self.folder(experiment, base)
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted process has left
        with self._chain(), quiet():
            training_cli(["fit", *self.words(experiment, base)])
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"Expected the training to write '{folder / WEIGHTS}', found nothing.")
        return folder / WEIGHTS

    def _student_and_teachers(self) -> tuple[Any, Any, Any]:
        """S, T_f and T_r as stage 1's configuration builds them from the chain's weights."""
        from ctsr_lightning.training import training_cli

        options = ["--trainer.accelerator", self.setup.device, "--trainer.logger", "false", "--trainer.callbacks", "[]"]
        with self._chain(), quiet():
            model: Any = training_cli(["--config", str(self.setup.configs / "stage1.yaml"), *options], run=False).model
        return model.student, model.teachers["fidelity"], model.teachers["realness"]

    @contextmanager
    def _chain(self) -> Iterator[None]:
        """Within this context the configurations find the chain's weights."""
        before = os.environ.get("CTSR_RUNS")
        os.environ["CTSR_RUNS"] = str(self.setup.chain)
        try:
            yield
        finally:
            del os.environ["CTSR_RUNS"]
            if before is not None:
                os.environ["CTSR_RUNS"] = before

    def _hash(self, path: Path) -> str:
        from ctsr_lightning.files import file_hash

        if path not in self._hashes:
            self._hashes[path] = file_hash(path)[:16]
        return self._hashes[path]


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context the announcements of trainings stay away: there are dozens of them, all alike."""
    loggers = [logging.getLogger(name) for name in ANNOUNCERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_chain(chain: Path) -> bool:
    """Whether a chain has both stages beside what the experiments build on.

    Args:
        chain: The folder.

    Raises:
        FileNotFoundError: If it lacks what the experiments build on.
    """
    if missing := [name for name in LINKS if not (chain / name / WEIGHTS).is_file()]:
        raise FileNotFoundError(
            f"Expected a finished chain in '{chain}' with {', '.join(f'{name}/{WEIGHTS}' for name in LINKS)}; missing "
            f"{', '.join(missing)}. Name the output folder of `make nano` or `make demo` with --chain."
        )
    stage = chain / "stage2"
    return (chain / "stage1" / WEIGHTS).is_file() and all((stage / n).is_file() for n in (WEIGHTS, "config.yaml"))
