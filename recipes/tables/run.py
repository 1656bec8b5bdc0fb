"""`python -m recipes tables`: the paper's tables at full size, by the trainings and measurements of each."""

# Annotations are not postponed here: the parser needs them as types.
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ctsr_lightning.files import written_aside
from ctsr_lightning.tables import markdown_table
from recipes.chain import WEIGHTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SUMMARY = "summary.json"
"""Record of `ctsr evaluate`."""


class Row(NamedTuple):
    """A row of a table."""

    name: str
    """Its name in the table."""
    training: str
    """The training whose model is measured."""
    data: str
    """Name of the data configuration."""
    method: str
    """Label of the method in the record of `ctsr evaluate`."""
    paper: Sequence[float]
    """The paper's figures, one per column."""


class Table(NamedTuple):
    """A table of the paper."""

    number: int
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]


def tables(
    *numbers: int,
    output: str | Path = "runs/tables",
    fit: str = "",
    evaluate: str = "",
    configs: str | Path = CONFIGS,
    dry_run: bool = False,
) -> int:
    """Make tables of the paper at full size: train what they compare, measure it, write it beside the paper's figures.

    Tables 1, 2, 4, 6, 7 and 9. Each training is `ctsr fit` with a configuration of configs/ctsr, each measurement `ctsr
    evaluate`; the files that they need are listed in docs/full_size.md, sections 1 and 6. Trainings that several tables
    share are made once. Everything finished is kept: the same command after Ctrl-C goes on. A table takes days of a
    GPU: --dry_run prints the commands, to be spread over machines by hand.

    Example:
        python -m recipes tables 4 --fit "--trainer.devices 8"

    Args:
        *numbers: Numbers of the tables.
        output: Folder for trainings, measurements and the tables.
        fit: Further options of every `ctsr fit`, in one string.
        evaluate: Further options of every `ctsr evaluate`.
        configs: Folder of the configurations.
        dry_run: Print the commands that are left, and run none.

    Returns:
        0.
    """
    folder, root = Path(output).expanduser().resolve(), Path(configs).expanduser().resolve()
    plan = read_plan()
    known = [table.number for table in plan.tables]
    if unknown := [number for number in numbers if number not in known]:
        raise ValueError(f"Expected tables out of {', '.join(map(str, known))}, found {', '.join(map(str, unknown))}.")
    chosen = [table for table in plan.tables if table.number in numbers]
    trainings = dict.fromkeys(name for table in chosen for row in table.rows for name in plan.chain(row.training))
    steps = [(folder / "trainings" / name / WEIGHTS, plan.fit(name, root, shlex.split(fit))) for name in trainings]
    for training, data in dict.fromkeys((row.training, row.data) for table in chosen for row in table.rows):
        words = plan.evaluate(chosen, training, data, root, folder, shlex.split(evaluate))
        steps.append((measured(folder, training, data), words))
    left = [(made, words) for made, words in steps if not made.is_file()]
    print(f"{len(steps) - len(left)} of {len(steps)} trainings and measurements are finished.", flush=True)
    environment = {**os.environ, "CTSR_RUNS": str(folder / "trainings")}
    for number, (made, words) in enumerate(left, start=1):
        print(f"\n[{number}/{len(left)}] CTSR_RUNS={environment['CTSR_RUNS']} ctsr {shlex.join(words)}", flush=True)
        if not dry_run:
            _run(words, made, environment)
    if not dry_run:
        for table in chosen:
            path = folder / f"table_{table.number}.md"
            with written_aside(path) as aside:
                aside.write_text(plan.page(table, folder), encoding="utf-8")
            print(f"\n{path.read_text(encoding='utf-8')}\n→ {path}")
    return 0


def _run(words: Sequence[str], made: Path, environment: Mapping[str, str]) -> None:
    """Run `ctsr` in a process of its own, as trainings on several devices start themselves again."""
    found = subprocess.run([sys.executable, "-m", "ctsr_lightning.cli", *words], env=environment, check=False)  # noqa: S603  # own words
    if found.returncode or not made.is_file():
        print("ctsr: the same `python -m recipes tables` goes on with what is left.", file=sys.stderr)
        raise SystemExit(found.returncode or 1)


def measured(folder: Path, training: str, data: str) -> Path:
    """The record of a training's model on a data set."""
    return folder / "measurements" / f"{training}_{data}" / SUMMARY


class Plan:
    """The tables, and the trainings that their rows compare.

    Args:
        values: Contents of tables.yaml.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.metrics: dict[str, tuple[str, str, int]] = {k: tuple(v) for k, v in values["metrics"].items()}
        self.trainings: dict[str, dict[str, Any]] = values["trainings"]
        self.tables = [
            Table(number, t["title"], t["columns"], [Row(**{"data": t.get("data"), **row}) for row in t["rows"]])
            for number, t in values["tables"].items()
        ]

    def chain(self, training: str) -> list[str]:
        """A training, after the one that it starts from."""
        before = self.trainings[training].get("after")
        return [*(self.chain(before) if before else []), training]

    def fit(self, training: str, configs: Path, options: Sequence[str]) -> list[str]:
        """Words of `ctsr` for a training.

        Args:
            training: Its name, also that of its folder.
            configs: Folder of the configurations.
            options: Further ones.
        """
        settings = self.trainings[training]
        words = ["fit", "--config", str(configs / "ctsr" / f"{settings['config']}.yaml")]
        for name, value in settings.get("set", {}).items():
            words += [f"--{name}", str(configs / value) if str(value).endswith(".yaml") else str(value)]
        return [*words, "--trainer.logger.init_args.name", training, *options]

    def evaluate(
        self, tables: Sequence[Table], training: str, data: str, configs: Path, folder: Path, options: Sequence[str]
    ) -> list[str]:
        """Words of `ctsr` that measure all that the tables want of a training's model on a data set."""
        rows = [(t, row) for t in tables for row in t.rows if (row.training, row.data) == (training, data)]
        metrics = dict.fromkeys(self.metrics[column][0] for table, _ in rows for column in table.columns)
        labels = dict.fromkeys(row.method for _, row in rows)
        controls = [m[1] for label in labels if (m := re.fullmatch(r"t=(.+)", label))]
        alphas = [m[1] for label in labels if (m := re.fullmatch(r"blend α=(.+)", label))]
        teachers = any(not label.startswith("t=") for label in labels)
        weights = folder / "trainings" / training / WEIGHTS
        words = ["evaluate", "--checkpoint", str(weights), "--data", str(configs / "data" / f"{data}.yaml")]
        words += ["--metrics", ",".join(metrics), "--control", ",".join(controls or ["0"])]
        words += ["--baselines", "all" if teachers else "none"]
        words += ["--alphas", ",".join(alphas)] if alphas else []
        return [*words, "--name", training, "--output", str(measured(folder, training, data).parent), *options]

    def page(self, table: Table, folder: Path) -> str:
        """A table in Markdown, our figures beside the paper's.

        Args:
            table: The table.
            folder: Folder of the measurements.
        """
        rows = []
        for row in table.rows:
            record = json.loads(measured(folder, row.training, row.data).read_text(encoding="utf-8"))
            found = {result["setting"]: result for result in record["results"]}[row.method]
            cells = [row.name]
            for column, published in zip(table.columns, row.paper, strict=True):
                _, name, digits = self.metrics[column]
                ours = "" if found.get(name) is None else f"{found[name]:.{digits}f}"
                cells += [ours, f"{published:.{digits}f}"]
            rows.append(cells)
        head = ["", *(text for column in table.columns for text in (column, "paper"))]
        note = (
            "Ours, then the paper's figure. PSNR and SSIM are taken on Y; see summary.json for protocol and versions."
        )
        return f"# Table {table.number}: {table.title}\n\n{note}\n\n{markdown_table(head, rows)}\n"


def read_plan() -> Plan:
    """The plan of tables.yaml."""
    return Plan(yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text(encoding="utf-8")))
