"""`make methods`: CTSR, OFTSR, AddSR and CCSR, trained on the same photographs for the same time, on one plane."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ctsr_lightning.inference.devices import pick_device, torch_device
from recipes.chain import (
    CHAIN,
    WEIGHTS,
    Length,
    Link,
    announce,
    configured_steps,
    data_options,
    find_photographs,
    remember_photographs,
    train_link,
)

KEPT: Final = ("codec", "prior")
"""Trainings of a chain that all methods start from."""
PRIOR: Final = Link("guided_prior", "guided prior, of AddSR and CCSR", fine=True)
STRUCTURE: Final = Link("structure", "CCSR's structure stage: one step and two", fine=True)
CTSR: Final = "CTSR"
OFTSR: Final = "OFTSR"


class Trained(NamedTuple):
    """A method and its trainings."""

    name: str
    """Its name, that of its curve."""
    links: Sequence[Link]
    """Its trainings, the last of which leaves the model."""
    shares: Sequence[float]
    """Of its time, for each of them."""


METHODS: Final = (
    Trained(CTSR, CHAIN[2:], (0.25, 0.25, 0.3, 0.2)),
    Trained(
        OFTSR,
        (
            Link("flow_teacher", "OFTSR's flow, from the noised input to the photograph", fine=True),
            Link("tunable_flow", "OFTSR: the flow in one step, with a slider", fine=True),
        ),
        (0.5, 0.5),
    ),
    Trained("AddSR", (PRIOR, Link("addsr", "AddSR: one to four steps, adversarially", fine=True)), (0.4, 0.6)),
    Trained("CCSR", (PRIOR, STRUCTURE), (0.4, 0.6)),
    Trained(
        "CCSR+detail",
        (PRIOR, STRUCTURE, Link("detail", "CCSR's detail stage: the decoder, adversarially", fine=True)),
        (0.4, 0.6, 0.2),
    ),
)
"""The methods; `CCSR+detail` goes on from `CCSR` for a fifth of its time."""
PACE: Final = (2, 2, 32)
"""Steps of a training that loads what all need, and of the two whose difference in time is that of 30 steps."""
BLENDS: Final = "0.5"
"""Shares of blends."""
STEPS: Final = {"AddSR": (1, 2, 3, 4), OFTSR: (1, 2, 4, 8), "CCSR": (1, 2), "CCSR+detail": (1, 2)}
"""Numbers of steps that methods are measured in; of OFTSR its flow."""


def methods(
    output: str | Path = "runs/methods",
    photos: str | Path | None = None,
    test: str | None = None,
    only: str | None = None,
    minutes: float | None = 60.0,
    chain: str | Path | None = None,
    expert: str | None = None,
    page: str | Path | None = None,
    configs: str | Path = "configs/nano",
    control: str = "0,0.5,1",
    seeds: int = 3,
    crop: int = 256,
    limit: int | None = None,
    metrics: str = "",
    weights: str | None = None,
    device: str = "auto",
) -> int:
    """Train all methods on the same codec and photographs for the same time, and measure them on the same images.

    CTSR (two teachers, both stages), OFTSR (flow, distillation), AddSR and CCSR (guided prior, then each its own), and
    CCSR's detail stage on top. `ctsr sweep --rivals` then measures all of them, the blend of CTSR's teachers, blends of
    every model's own ends, bicubic enlargement and published networks; a page shows parameters, passes, figures, planes
    and pictures. No method learns from a published network here. Finished trainings and sweeps are kept: the same
    command after Ctrl-C goes on where it stopped. The page includes STEM_reading.md beside it, if there is one: remarks
    of a person on the figures.

    Example:
        python -m recipes methods --photos photos/train --test photos/test,configs/data/realsr.yaml --minutes 30
        python -m recipes methods --only OFTSR --minutes null --photos photos/     # beside the chain's own CTSR

    Args:
        output: Folder for the trainings and sweeps.
        photos: Folder of photographs to train on. Without it, the photographs that come with scikit-image.
        test: Folders of photographs to degrade and measure on, or data configurations (.yaml), several with commas
            between. Without it, the held-out sample photographs.
        only: Methods beside CTSR, with commas between; all of them without it.
        minutes: Time of each method's trainings together; how many steps that is, a few of them tell. null trains as
            long as the configurations say, and takes CTSR from the chain.
        chain: Folder of a finished chain, such as `make nano` leaves, with codec and prior (and stage 2 where `minutes`
            is null). Without it, the package's.
        expert: Published networks to measure as well, see `ctsr sweep`.
        page: The page, or a folder for it; OUTPUT/methods.md by default. Pictures lie beside it.
        configs: Folder of the nano configurations.
        control: Values of t.
        seeds: Runs of the methods that draw noise; figures are means over them, L-STD is what they differ by.
        crop: Side of the central crop of photographs to measure on.
        limit: Images of a set to stop after.
        metrics: Further metrics, such as niqe, see `ctsr evaluate --help`.
        weights: Folders with weight files of the metrics, searched before TORCH_HOME; several with commas between.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.

    Returns:
        0.
    """
    from ctsr_lightning.commands.options import listed
    from ctsr_lightning.weights.shipped import shipped_folder
    from recipes.methods.page import FLOW, write_page

    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    folder = shipped_folder() if chain is None else Path(chain).expanduser()
    if minutes is not None and minutes <= 0:
        raise ValueError(f"Expected positive --minutes, or null for the configured lengths, found {minutes}.")
    chosen = _chosen(listed(only))
    if minutes is None:
        chosen = chosen[1:]  # CTSR is the chain's
    source, sets = find_photographs(photos), _test_sets(listed(test))
    _bring(folder, output, () if minutes is not None else [link.name for link in CHAIN[2:]], source)
    pairs = [pair for each in chosen for pair in zip(each.links, each.shares, strict=True)]
    trainings = {link.name: (link, share) for link, share in pairs}
    parts = len(trainings) + len(sets)
    options = [*data_options(source, repeats=1), "--trainer.num_sanity_val_steps", "0"]
    for number, (link, share) in enumerate(trainings.values(), 1):
        announce(number, parts, link.text)
        words = [*options, *_over_structure(link, output)]
        length = configured_steps(configs, link)
        if minutes is not None:
            length = _affordable(configs, output, link, words, device, 60.0 * minutes * share)
        train_link("methods", configs, output, link, Length(length, 1), words, device, "float32")
    trained = {each.name: [output / link.name for link in each.links] for each in chosen}
    if minutes is None:
        trained = {CTSR: [folder / link.name for link in CHAIN[2:]], **trained}
    if OFTSR in trained:
        trained[FLOW] = trained[OFTSR][:1]
    models = {name: folders[-1] for name, folders in trained.items()}
    steps = sorted({count for name in trained for count in STEPS.get(name, ())})
    settings: dict[str, Any] = {"control": control, "alphas": BLENDS, "steps": steps, "rival_seeds": seeds}
    settings["limit"] = limit
    settings |= {"expert": expert, "metrics": metrics, "weights": weights, "device": torch_device(device)}
    for number, (name, place) in enumerate(sets.items(), len(trainings) + 1):
        announce(number, parts, f"measured on {name}")
        _sweep(models, output / "sweeps" / name, place, crop, settings)
    path = output / "methods.md" if page is None else Path(page).expanduser()
    path = path if path.suffix == ".md" else path / "methods.md"
    write_page(path, output, list(sets), trained, minutes)
    print(f"→ {path}")
    return 0


def _chosen(names: list[str]) -> list[Trained]:
    """CTSR, and the methods of these names, or all."""
    known = {each.name: each for each in METHODS}
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"Expected methods of {', '.join(known)} in --only, found '{wrong[0]}'.")
    return [each for each in METHODS if each.name in {CTSR, *(names or known)}]


def _test_sets(words: list[str]) -> dict[str, str | None]:
    """Folders and data configurations by the names of their files; the samples, None, if there are none.

    Raises:
        FileNotFoundError: If one is not there.
        ValueError: If two have one name.
    """
    if not words:
        return {"samples": None}
    sets: dict[str, str | None] = {}
    for word in words:
        path = Path(word).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"Expected a folder or a data configuration in --test, found nothing at '{path}'.")
        if path.stem in sets:
            raise ValueError(f"Expected test sets of different names, found '{path.stem}' twice. Rename one.")
        sets[path.stem] = str(path)
    return sets


def _bring(chain: Path, output: Path, needed: Sequence[str], source: str | None) -> None:
    """Copy what all methods start from out of a chain, and record the photographs.

    Raises:
        FileNotFoundError: If the chain lacks it, or another training that is needed.
    """
    for name in (*KEPT, *needed):
        if not (chain / name / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"Expected a finished chain with '{name}/{WEIGHTS}' in '{chain}', found none. Name the output folder "
                "of `make nano` with --chain."
            )
    remember_photographs(output, source)
    for name in KEPT:
        shutil.copytree(chain / name, output / name, dirs_exist_ok=True)


def _over_structure(link: Link, output: Path) -> list[str]:
    """Options by which the detail stage goes on from CCSR's structure stage; none for other trainings."""
    if link.name != "detail":
        return []
    folder = output / "structure"
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    student = settings["model"]["init_args"]["student"]
    student["init_args"]["weights"] = str((folder / WEIGHTS).resolve())
    file = folder / "student.yaml"
    file.write_text(yaml.safe_dump(student, sort_keys=False), encoding="utf-8")
    return ["--model.init_args.student", str(file)]


def _affordable(configs: Path, output: Path, link: Link, words: Sequence[str], device: str, seconds: float) -> int:
    """Optimizer steps that a training takes in a time, by the pace of a few; recorded, so that it stays the same.

    On CPUs the pace is that of the process alone, so that other work on the machine changes no method's share.
    """
    import torch

    record = output / "steps.json"
    known: dict[str, int] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if link.name not in known:
        on_cpu = pick_device(torch_device(device)).type == "cpu"
        clock = (lambda: time.process_time() / torch.get_num_threads()) if on_cpu else time.perf_counter
        times = []
        for steps in PACE:
            with tempfile.TemporaryDirectory() as scratch:
                for folder in output.iterdir():
                    if (folder / WEIGHTS).is_file():
                        (Path(scratch) / folder.name).symlink_to(folder.resolve())
                unseen = ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
                unseen += ["--data.init_args.pool", "16"]  # degraded in the first steps of all of them
                start = clock()
                train_link(
                    "methods", configs, Path(scratch), link, Length(steps, 1), [*words, *unseen], device, "float32"
                )
                times.append(clock() - start)
        pace = max(1e-3, (times[2] - times[1]) / (PACE[2] - PACE[1]))
        known[link.name] = max(2, round(seconds / pace))
        print(f"{pace:.2f} s a step: {known[link.name]:,} steps", flush=True)
        record.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return known[link.name]


def _sweep(models: Mapping[str, Path], folder: Path, place: str | None, crop: int, settings: Mapping[str, Any]) -> None:
    """Measure everything on one set by `ctsr sweep`; a finished measurement stays."""
    from ctsr_lightning.commands.sweep import sweep
    from recipes.methods.page import PICTURES, draw_images

    if (folder / "tradeoff.json").is_file():
        print(f"complete: {folder}", flush=True)
        return
    rivals = ",".join(f"{name}={place}" for name, place in models.items() if name != CTSR)
    data: dict[str, Any] = {"gt": place, "crop": crop}
    if place is not None and place.endswith(".yaml"):
        data = {"data": place}
    draw_images(folder / PICTURES, models, place, crop, settings["limit"], settings["device"])
    sweep(models[CTSR] / WEIGHTS, output=folder, name=CTSR, rivals=rivals, examples=0, **data, **settings)
