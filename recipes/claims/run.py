"""`make claims`: the paper's claims as experiments that a laptop repeats."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import inspect
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsr_lightning.inference.settings import TrainingPrecision

if TYPE_CHECKING:
    from recipes.claims.experiments import Experiment
    from recipes.claims.records import Record, Records
    from recipes.claims.train import ExperimentTrainer

PATHS = frozenset({"photos", "test", "chain", "output", "work", "configs"})
"""Options that are paths."""
WAIT = 5.0
"""Seconds between two attempts at what another process is doing."""


def claims(
    photos: str | Path | None = None,
    test: str | Path | None = None,
    chain: str | Path | None = None,
    output: str | Path = "docs/claims.md",
    seeds: int | list[int] | str = "0,1,2",
    only: str | None = None,
    steps: float = 1.0,
    work: str | Path = "runs/claims",
    configs: str | Path = "configs/nano",
    device: str = "auto",
    precision: TrainingPrecision = "auto",
    threads: int | None = None,
) -> int:
    """Repeat the paper's claims in small: short trainings over several seeds, verdicts, tables and plots on one page.

    Stage 1 and stage 2 are trained anew from a chain's teachers, as configured and with one thing changed at a time,
    and measured on photographs held out of training. Three seeds take about eight hours of one CPU core, two to three
    of one with AVX-512. Finished experiments are kept in WORK: the same command after Ctrl-C goes on, and several
    processes may share the work, each with seeds of its own or with the same. Other settings need another WORK.

    The page includes STEM_reading.md beside it, if there is one: a person's remarks on the figures.

    Example:
        python -m recipes claims --photos photos/train --test photos/test

    Args:
        photos: Folder of photographs to train on. Without it, the photographs that come with scikit-image.
        test: Folder of photographs to measure on, none of which is trained on. Without it, two that come with
            scikit-image and are held out.
        chain: Folder of a finished chain, such as `make nano` or `make demo` leaves: codec and teachers, and both
            stages, which are measured beside the short trainings if they are there. Without it, the package's own.
        output: The page, or a folder for it; the pictures, and all measurements as a table, lie beside it.
        seeds: Seeds of the trainings.
        only: Do only some experiments, and leave the page: groups (chain, stage1, stage2) or single ones
            (stage1/score), with commas between.
        steps: Factor on the length of every training.
        work: Folder for records and logs of the trainings.
        configs: Folder of the nano configurations.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.
        precision: Type that networks compute in while they are trained, as in nano; measurements are in float32.
        threads: Threads on a CPU; by default as many as torch takes.

    Returns:
        0.
    """
    options = dict(locals())
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, found {steps}.")
    import pandas as pd

    from ctsr_lightning.commands.options import listed
    from ctsr_lightning.files import written_aside
    from ctsr_lightning.weights.shipped import shipped_folder
    from recipes.chain import remarks, training_precision
    from recipes.claims.experiments import list_experiments, plan_experiments, read_loss_settings
    from recipes.claims.findings import Findings
    from recipes.claims.page import claims_page, introduce
    from recipes.claims.plots import write_pictures
    from recipes.claims.records import Records
    from recipes.claims.train import ExperimentTrainer, check_chain

    folder = _absolute(chain) if chain is not None else shipped_folder()
    full = check_chain(folder)
    settings = read_loss_settings(_absolute(configs))
    experiments = list_experiments(settings, full=full)
    planned = plan_experiments(experiments, _numbers(seeds), listed(only))
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    trainer = ExperimentTrainer(
        configs=_absolute(configs),
        chain=folder,
        photos=None if photos is None else _absolute(photos),
        test=None if test is None else _absolute(test),
        work=_absolute(work),
        steps=steps,
        device=device,
        precision=training_precision(device, precision),
    )
    records = Records(trainer.work / "records", trainer.shared_settings())
    try:
        found = run_pending(planned, trainer, records)
    except SystemExit:  # Ctrl-C, which Lightning has handled
        print("ctsr: the same `python -m recipes claims` goes on with the experiments that are left.", file=sys.stderr)
        raise
    if only:
        print(f"{len(found)} records are in '{records.folder}'; without --only the page is written.")
        return 0
    tables = [record.measurements.assign(experiment=e.key, seed=e.seed) for e, record in found.items()]
    spent = [(e.key, record.seconds["training"] / 60.0) for e, record in found.items() if e.is_trained]
    minutes = pd.DataFrame(spent, columns=["key", "minutes"]).groupby("key")["minutes"].mean()
    measured = pd.concat(tables)
    findings = Findings(measured, experiments, minutes.to_dict())
    page = Path(output).expanduser()
    page = page if page.suffix == ".md" else page / "claims.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(page.parent, page.stem, findings, settings)
    figures = page.with_suffix(".csv.gz")
    with written_aside(figures) as aside:
        measured.to_csv(aside, index=False, compression={"method": "gzip", "mtime": 0})
    introduction = [
        *introduce(_command(options), findings.perceptual, trainer, found),
        f"Every measurement that the figures are computed from: [{figures.name}]({figures.name}).",
    ]
    with written_aside(page) as aside:
        aside.write_text(claims_page(findings, introduction, pictures, remarks(page)), encoding="utf-8")
    print(f"→ {page}")
    return 0


def run_pending(
    experiments: "Sequence[Experiment]", trainer: "ExperimentTrainer", records: "Records"
) -> "dict[Experiment, Record]":
    """Do all experiments that have no record yet, those that others start from first; every one with its record.

    Experiments that another process is doing are waited for.
    """
    from recipes.claims.experiments import start_experiment

    starts = {e: start_experiment(e, experiments) for e in experiments}
    settings = {e: trainer.settings(e) for e in experiments}
    found = {e: record for e in experiments if (record := records.read(e, settings[e])) is not None}
    needed = {starts[e] for e in experiments if e not in found}

    def is_done(experiment: "Experiment") -> bool:
        return experiment in found and (experiment not in needed or trainer.has_weights(experiment))

    pending = [e for e in experiments if not is_done(e)]
    clock = ProgressClock(experiments, pending)
    while pending:
        before = list(pending)
        for experiment in before:
            start = starts[experiment]
            if start is not None and not trainer.has_weights(start):
                continue
            with records.lock(experiment) as mine:
                if not mine:
                    continue
                if (record := records.read(experiment, settings[experiment])) is not None:
                    found[experiment] = record
                if not is_done(experiment):
                    clock.announce(experiment, found)
                    found[experiment] = trainer.run(experiment, start)
                    records.write(experiment, settings[experiment], found[experiment])
                pending.remove(experiment)
        if len(pending) == len(before):
            clock.wait()
    return {e: found[e] for e in experiments}


class ProgressClock:
    """Prints which experiment of how many runs, and about how long the rest will take.

    Args:
        experiments: All experiments.
        pending: Those that are left, a list that shrinks.
    """

    def __init__(self, experiments: "Sequence[Experiment]", pending: "Sequence[Experiment]") -> None:
        self.total, self.pending, self._waits = len(experiments), pending, False
        if len(pending) < self.total:
            print(f"{self.total - len(pending)} of {self.total} experiments are finished.", flush=True)

    def announce(self, experiment: "Experiment", found: "Mapping[Experiment, Record]") -> None:
        """Print which experiment begins."""
        seconds = [sum(record.seconds.values()) for e, record in found.items() if e.is_trained]
        minutes = len(self.pending) * sum(seconds) / max(1, len(seconds)) / 60.0
        left = f"; about {minutes:.0f} minutes left" if minutes >= 1.0 else "; less than a minute left" * bool(seconds)
        number = self.total - len(self.pending) + 1
        print(f"\n[{number}/{self.total}] {experiment.title}{left}", flush=True)
        self._waits = False

    def wait(self) -> None:
        """Wait a little for another process; print so once."""
        if not self._waits:
            print(f"Waiting for another process, which does {self.pending[0].title}.", flush=True)
        self._waits = True
        time.sleep(WAIT)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _numbers(seeds: int | list[int] | str) -> list[int]:
    """Seeds: a number, a list, or numbers with commas between them."""
    words = seeds.replace(",", " ").split() if isinstance(seeds, str) else seeds if isinstance(seeds, list) else [seeds]
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"Expected seeds as whole numbers, such as 0,1,2; found '{seeds}'.") from error


def _command(options: Mapping[str, Any]) -> str:
    """The command line without defaults, paths as seen from here."""
    from recipes.claims.page import relative_path

    words = ["python", "-m", "recipes", "claims"]
    for name, parameter in inspect.signature(claims).parameters.items():
        if (value := options[name]) != parameter.default:
            words += [f"--{name}", relative_path(Path(value).expanduser()) if name in PATHS else str(value)]
    return shlex.join(words)
