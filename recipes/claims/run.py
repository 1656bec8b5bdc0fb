"""`make claims`: the paper's claims as experiments that a laptop repeats."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsr_lightning.inference.settings import TrainingPrecision

if TYPE_CHECKING:
    from recipes.claims.bench import Setup
    from recipes.claims.plan import Experiment, Variation
    from recipes.claims.records import Record

READING = "claims_reading.md"
"""What a person has written about the figures, beside the page."""
PATHS = frozenset({"data", "test", "chain", "output", "work", "configs"})
"""Options that are paths."""


def claims(
    data: str | Path | None = None,
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
    and measured on photographs that none of them has seen. Three seeds take about 80 minutes of one CPU core. What is
    finished is kept in WORK: the same command after Ctrl-C goes on, and several processes may share the work, each
    with seeds of its own or with the same. A record is used again only with the settings that it was made with.

    The page includes claims_reading.md beside it, if there is one: what a person has to say about the figures.

    Example:
        python -m recipes claims --data photos/train --test photos/test

    Args:
        data: Folder of photographs to train on. Without it, the photographs that come with scikit-image.
        test: Folder of photographs to measure on, none of which is trained on. Without it, two that come with
            scikit-image and are held out.
        chain: Folder of a finished chain, such as `make nano` or `make demo` leaves: codec and teachers, which stay as
            they are, and both stages, which are measured beside the short trainings if they are there. Without it, the
            chain that comes with this package.
        output: The page, or a folder for it; the pictures lie beside it.
        seeds: Seeds of the trainings.
        only: Do only some experiments, and leave the page: groups (chain, stage1, stage2) or single ones
            (stage1/score), with commas between.
        steps: Factor on the length of every training.
        work: Folder for records and logs of the trainings.
        configs: Folder of the nano configurations.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.
        precision: Type that networks compute in while they are trained, as in nano; all is measured in float32.
        threads: Threads on a CPU; by default as many as torch takes.

    Returns:
        0.
    """
    options = dict(locals())
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, got {steps}.")
    from ctsr_lightning.commands.options import listed
    from ctsr_lightning.inference.devices import computes_bfloat16
    from ctsr_lightning.weights.shipped import shipped_folder
    from recipes.claims.bench import Bench, Setup, check_chain
    from recipes.claims.conduct import conduct
    from recipes.claims.plan import measured, plan, read_weights, stage_1, stage_2
    from recipes.claims.records import Records

    folder = _absolute(chain) if chain is not None else shipped_folder()
    full = check_chain(folder)
    paths = [None if path is None else _absolute(path) for path in (data, test)]
    variations = [*measured(full), *stage_1(read_weights(_absolute(configs))), *stage_2()]
    experiments = plan(variations, _numbers(seeds), listed(only))
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    half = computes_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    work = _absolute(work)
    setup = Setup(
        configs=_absolute(configs),
        chain=folder,
        data=paths[0],
        test=paths[1],
        work=work,
        steps=steps,
        device=device,
        precision="bf16-mixed" if half else "32-true",
    )
    bench, records = Bench(setup), Records(work / "records")
    try:
        found = conduct(experiments, bench, records)
    except SystemExit:  # Ctrl-C, which Lightning has handled
        print("ctsr: the same `python -m recipes claims` goes on with the experiments that are left.", file=sys.stderr)
        raise
    if only:
        print(f"{len(found)} records are in '{records.folder}'; without --only the page is written.")
        return 0
    print(f"→ {write_page(_page_path(Path(output).expanduser()), found, variations, setup, options)}")
    return 0


def write_page(
    path: Path,
    found: "Sequence[tuple[Experiment, Record]]",
    variations: "Sequence[Variation]",
    setup: "Setup",
    options: "Mapping[str, Any]",
) -> Path:
    """Write the page and its pictures.

    Args:
        path: The page.
        found: Every experiment with its record.
        variations: All variations, in the order of the tables.
        setup: What the experiments have in common.
        options: The options of the command.
    """
    from recipes.claims.findings import Findings
    from recipes.claims.page import Making, page
    from recipes.claims.plots import write_pictures
    from recipes.claims.records import replace

    trained: dict[str, dict[int, Any]] = {}
    measured = {e.variation.name: record for e, record in found if e.variation.group == "chain"}
    for experiment, record in found:
        if experiment.variation.group != "chain":
            trained.setdefault(experiment.variation.key, {})[experiment.seed] = record
    columns = next(iter(next(iter(measured.values())).values.values()))
    findings = Findings(measured, trained, list(columns)[1])
    making = Making(
        command=_command(options),
        seeds=sorted({e.seed for e, _ in found if e.variation.group != "chain"}),
        steps=(setup.training_steps("stage1"), setup.training_steps("stage2")),
        data=_named(setup.data),
        test=_named(setup.test),
        chain="those that come with this package" if options["chain"] is None else f"those of `{_near(setup.chain)}`",
        devices=list(dict.fromkeys(str(record.made["device"]) for _, record in found)),
        minutes=sum(sum(record.seconds.values()) for _, record in found) / 60.0,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(path.parent, path.stem, findings, variations)
    notes = path.with_name(READING)
    reading = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    replace(path, page(findings, variations, making, pictures, reading))
    return path


def _page_path(output: Path) -> Path:
    return output if output.suffix == ".md" else output / "claims.md"


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


def _numbers(seeds: int | list[int] | str) -> list[int]:
    """Read seeds: a number, a list, or numbers with commas between them."""
    words = seeds.replace(",", " ").split() if isinstance(seeds, str) else seeds if isinstance(seeds, list) else [seeds]
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"Expected seeds as whole numbers, such as 0,1,2; got '{seeds}'.") from error


def _command(options: "Mapping[str, Any]") -> str:
    """The command line without defaults, paths as seen from here: those of one machine mean nothing elsewhere."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(claims).parameters.items()}
    words = ["python", "-m", "recipes", "claims"]
    for name, value in options.items():
        if value != defaults[name]:
            words += [f"--{name}", _near(Path(value).expanduser()) if name in PATHS else str(value)]
    return shlex.join(words)


def _near(path: Path) -> str:
    return Path(os.path.relpath(path)).as_posix()


def _named(folder: Path | None) -> str:
    return "the sample photographs of scikit-image" if folder is None else f"the photographs in `{_near(folder)}`"
