"""Short trainings by the nano configurations (`ctsr fit` in this process), all measured on the same images."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ctsr_lightning import __version__
from ctsr_lightning.batch import Batch
from ctsr_lightning.evaluation.experts import Expert
from ctsr_lightning.evaluation.labels import FAITHFUL, GRID, REALISTIC
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.measuring import load_batches, load_images, measure_methods
from ctsr_lightning.evaluation.methods import Methods
from ctsr_lightning.evaluation.protocol import versions
from ctsr_lightning.evaluation.setup import benchmark_data, build_metrics
from ctsr_lightning.files import file_hash
from ctsr_lightning.images import list_images
from ctsr_lightning.inference.devices import describe_device, pick_device, torch_device
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.perceptual import perceptual_distance
from ctsr_lightning.teachers import OneStepTeacher
from recipes.chain import WEIGHTS
from recipes.claims import experiments as plan
from recipes.claims.experiments import ALPHAS, BATCH, CONTROLS, FULL, STAGE_1, STAGE_2, STEPS, TEMPERATURE, Experiment
from recipes.claims.records import COLUMNS, Record

LINKS: Final = ("codec", "prior", "fidelity_teacher", "realness_teacher")
"""Trainings of the chain that every experiment builds on."""
CALLBACKS: Final = frozenset({"EMA", "WeightsWriter"})
"""Callbacks of the configurations that a short training needs; the others only watch it."""
SAMPLE_REPEATS: Final = 4
"""Test crops of each sample photograph, of which there are two."""
NOISY_LOGGERS: Final = ("lightning.pytorch", "lightning.fabric", "ctsr_lightning.metrics.perceptual")
"""Loggers that name device, seed and perceptual distance of every training; records hold these."""


@dataclass
class ExperimentTrainer:
    """Trains and measures experiments.

    Test images and their degradation are the same for all experiments, and with the same seed all trainings of a stage
    see the same crops in the same order: differences are paired.

    Args:
        configs: Folder of the nano configurations.
        chain: Folder of the finished chain.
        photos: Folder of photographs to train on; None for the sample photographs.
        test: Folder of photographs to measure on; None for the held-out sample photographs.
        work: Folder for records and trainings.
        steps: Factor on the length of every training.
        device: Accelerator for Lightning.
        precision: Lightning's precision of the trainings; measurements are in float32.

    Raises:
        FileNotFoundError: If a folder of photographs holds none.
        ValueError: If a test photograph is trained on as well.
    """

    configs: Path
    chain: Path
    photos: Path | None
    test: Path | None
    work: Path
    steps: float
    device: str
    precision: str

    def __post_init__(self) -> None:
        os.environ["CTSR_RUNS"] = str(self.chain)  # the configurations look for weights there
        self.trained_on, self.measured_on = ([] if p is None else list_images(p) for p in (self.photos, self.test))
        if common := {path.resolve() for path in self.trained_on} & {path.resolve() for path in self.measured_on}:
            raise ValueError(
                f"Expected photographs to measure on that are not trained on, found {len(common)} in both "
                f"('{min(common).name}'). Name other folders with --photos and --test."
            )
        self._built: dict[float | None, Any] = {}
        self.torch_device = pick_device(torch_device(self.device))
        self.distance = perceptual_distance("squeeze")

    def training_steps(self, group: str, length: float = 1.0) -> int:
        """Optimizer steps of one training of a stage."""
        return max(2, round(STEPS[group] * self.steps * length))

    def shared_settings(self) -> dict[str, Any]:
        """All that the results of experiments depend on, and share, as plain values."""
        return {
            "version": __version__,
            "chain": {name: file_hash(self.chain / name / WEIGHTS) for name in LINKS},
            "configurations": {group: self._configured(group) for group in STEPS},
            "photos": _sizes(self.trained_on, self.photos),
            "test": _sizes(self.measured_on, self.test),
            "steps": {group: self.training_steps(group) for group in STEPS},
            "batch": BATCH,
            "learning_rate": plan.LEARNING_RATE,
            "crop": plan.CROP,
            "perceptual": {"name": self.distance.name, "definition": self.distance.definition},
            "device": self.torch_device.type,
            "precision": self.precision,
            "controls": CONTROLS,
            "alphas": ALPHAS,
        }

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """All that the result of an experiment depends on besides."""
        stages = ("stage1", "stage2") if experiment.key == FULL else ()
        weights = {stage: file_hash(self.chain / stage / WEIGHTS) for stage in stages}
        return {"overrides": dict(experiment.overrides), "length": experiment.length, "weights": weights}

    def has_weights(self, experiment: Experiment) -> bool:
        """Whether the weights of an experiment are there for another one to start from."""
        return (self._folder(experiment) / WEIGHTS).is_file()

    def run(self, experiment: Experiment, start: Experiment | None = None) -> Record:
        """Train an experiment, from another one's weights, and measure it. Only weights of base trainings stay.

        Raises:
            FileNotFoundError: If the training leaves no weights.
            SystemExit: If it is interrupted by Ctrl-C.
        """
        seconds, began = {}, time.perf_counter()
        made: dict[str, Any] = {"device": describe_device(self.torch_device), "versions": versions()}
        weights = self.chain / "stage2" / WEIGHTS
        if experiment.is_trained:
            weights = self._train(experiment, start)
            seconds["training"] = time.perf_counter() - began
            made["steps"] = self.training_steps(experiment.group, experiment.length)
        began = time.perf_counter()
        measurements = self._measure(experiment, weights)
        seconds["evaluation"] = time.perf_counter() - began
        if experiment.is_trained and experiment.key not in {STAGE_1, STAGE_2}:
            weights.unlink()
        return Record(measurements, seconds, made)

    def _train(self, experiment: Experiment, start: Experiment | None) -> Path:
        """Run a short training; the weights that it leaves."""
        from ctsr_lightning.training import training_cli

        folder = self._folder(experiment)
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted process
        words = ["fit", "--config", str(self.configs / f"{experiment.group}.yaml")]
        for name, value in self._fit_options(experiment, start, folder).items():
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        with muted_logs():
            training_cli(words)
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"Expected the training to write '{folder / WEIGHTS}', found nothing.")
        return folder / WEIGHTS

    def _fit_options(self, experiment: Experiment, start: Experiment | None, folder: Path) -> dict[str, Any]:
        steps = self.training_steps(experiment.group, experiment.length)
        rate = plan.LEARNING_RATE.get(experiment.group)
        photos = {} if self.photos is None else {"train": [str(self.photos)], "val_split": 0}
        model: dict[str, Any] = {} if rate is None else {"optimizer.init_args.lr": rate}
        model |= experiment.overrides
        if start is not None:
            places = ("student.init_args.weights", "velocity.init_args.unet.init_args.weights")
            model |= dict.fromkeys(places, str(self._folder(start) / WEIGHTS))
        return {
            "seed_everything": experiment.seed,
            "trainer.max_steps": steps,
            "trainer.accelerator": self.device,
            "trainer.devices": 1,
            "trainer.precision": self.precision,
            "trainer.limit_val_batches": 0,
            "trainer.log_every_n_steps": min(10, steps),
            "trainer.enable_progress_bar": False,
            "trainer.enable_model_summary": False,
            "trainer.callbacks": self._configured(experiment.group)["callbacks"],
            "trainer.logger.init_args.save_dir": str(folder.parent),
            "trainer.logger.init_args.name": folder.name,
            "data.init_args.seed": experiment.seed,
            "data.init_args.batch_size": BATCH,
            "data.init_args.samples_per_epoch": steps * BATCH,
            "data.init_args.pool": None,  # every crop is a new one
            **{f"data.init_args.{name}": value for name, value in photos.items()},
            "model.init_args.scheduler.init_args.warmup_steps": steps // 10,
            **{f"model.init_args.{name}": value for name, value in model.items()},
        }

    def _configured(self, group: str) -> dict[str, Any]:
        """The part of a configuration that a short training keeps: not its length, say."""
        config = plan.read_config(self.configs, group)
        trainer = config.get("trainer", {})
        names = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
        callbacks = [c for c in trainer.get("callbacks", []) if c["class_path"].rpartition(".")[2] in CALLBACKS]
        kept = {name: trainer[name] for name in names if name in trainer}
        return {"model": config["model"], "data": config.get("data"), **kept, "callbacks": callbacks}

    def _folder(self, experiment: Experiment) -> Path:
        """Logs and weights of a training."""
        return self.work / "trainings" / experiment.stem

    def _measure(self, experiment: Experiment, weights: Path) -> pd.DataFrame:
        """PSNR-Y, the perceptual distance and grid energy of every image and method.

        The chain's teachers stand beside their blend and bicubic enlargement, a student at every t that it has; as
        configured and at full length also the blend of its image at t = 0, S_1, with T_f's.
        """
        alone = not experiment.is_trained and experiment.key != FULL
        if alone:
            methods = Methods(self._restorer, [], self._experts(experiment.overrides.get(TEMPERATURE)), ALPHAS)
        else:
            restorer, experts = Restorer.from_pretrained(weights, self.torch_device), {}
            controls = CONTROLS if restorer.controllable else CONTROLS[:1]
            if experiment.key in {STAGE_2, FULL}:  # S_1 takes the place of T_r
                stage_2: Any = restorer.model
                s_1 = Expert(OneStepTeacher(stage_2.student), self.torch_device)
                experts = {FAITHFUL: self._experts()[FAITHFUL], REALISTIC: s_1}
            methods = Methods(restorer, controls, experts, CONTROLS[1:-1], bicubic=False)
        factor = self._restorer.model.codec.factor
        metrics, _ = build_metrics(["psnr_y", self.distance.name, GRID], skip_unavailable=False, grid_factor=factor)
        measured = Measurements(metrics, self.torch_device)
        measure_methods(methods, self._batches, measured)
        rows = [
            (row.key, row.method.label, metric, value)
            for row in measured.rows
            for metric, value in row.values.items()
            if alone or row.method.kind != "teacher"
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    @cached_property
    def _batches(self) -> list[Batch]:
        """The test images with their ground truth, degraded once."""
        repeats = SAMPLE_REPEATS if self.test is None else 1
        module, _ = benchmark_data(self._restorer.scale, None, self.test, crop=plan.CROP, repeats=repeats)
        return list(load_batches(module, range(load_images(module))))

    @cached_property
    def _restorer(self) -> Restorer:
        """The student where stage 1 begins."""
        return Restorer(self._stage_1().student, self.torch_device)

    def _experts(self, temperature: float | None = None) -> Mapping[str, Expert]:
        """The teachers, T_f at a temperature of its own where one is given."""
        teachers = self._stage_1(temperature).teachers
        named = {FAITHFUL: teachers["fidelity"], REALISTIC: teachers["realness"]}
        return {label: Expert(teacher, self.torch_device) for label, teacher in named.items()}

    def _stage_1(self, temperature: float | None = None) -> Any:
        """Stage 1's module as its configuration builds it from the chain's weights, built once."""
        if temperature not in self._built:
            self._built[temperature] = self._build_stage_1(temperature)
        return self._built[temperature]

    def _build_stage_1(self, temperature: float | None) -> Any:
        from ctsr_lightning.training import training_cli

        words = ["--config", str(self.configs / "stage1.yaml"), "--trainer.accelerator", self.device]
        words += [] if temperature is None else [f"--model.init_args.{TEMPERATURE}", str(temperature)]
        with muted_logs():
            return training_cli([*words, "--trainer.logger", "false", "--trainer.callbacks", "[]"], run=False).model


def _sizes(photos: list[Path], folder: Path | None) -> dict[str, int] | str:
    """Photographs by name and size, wherever their folder is."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in photos} if folder else "samples"


@contextmanager
def muted_logs() -> Iterator[None]:
    """Within this context trainings do not announce themselves: there are dozens of them, all alike."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
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
