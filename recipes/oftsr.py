"""`make oftsr`: OFTSR's pair trained on CTSR's codec and photographs, both sliders on one plane."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ctsr_lightning.evaluation.labels import OWN_ENDS
from ctsr_lightning.files import written_aside
from ctsr_lightning.inference.devices import torch_device
from recipes.chain import (
    WEIGHTS,
    Length,
    Link,
    announce,
    configured_steps,
    data_options,
    find_photographs,
    read_training,
    remember_photographs,
    train_link,
)

LINKS: Final = (
    Link("flow_teacher", "OFTSR's teacher: a flow from the noised input to the photograph", fine=True),
    Link("tunable_flow", "OFTSR's student: the flow in one step, with a slider", fine=True),
)
"""The trainings; the second starts from the first. bfloat16 resolves neither's targets."""
CONTROLS, ALPHAS = "0,0.2,0.4,0.6,0.8,1", "0.2,0.4,0.6,0.8"
"""Values of t, and shares of blends: as many points on every curve."""
TEACHER_STEPS: Final = "1,2,4,8"
"""Steps of the flow, each two passes by the midpoint rule."""
READING: Final = "oftsr_reading.md"
"""Remarks of a person on the figures, beside the page."""


def oftsr(
    output: str | Path = "runs/oftsr",
    photos: str | Path | None = None,
    test: str | None = None,
    chain: str | Path | None = None,
    expert: str | None = None,
    page: str | Path | None = None,
    configs: str | Path = "configs/nano",
    steps: float = 1.0,
    seeds: int = 3,
    crop: int = 256,
    limit: int | None = None,
    device: str = "auto",
) -> int:
    """Train OFTSR's flow and its distillation on CTSR's codec, and measure both sliders on the same plane.

    The pair is trained on a chain's codec and on photographs of your own, for several hours of a CPU core. Finished
    trainings are kept: the same command after Ctrl-C goes on where it stopped. Then `ctsr sweep --rivals` measures CTSR
    over t, OFTSR over t, the blend of the teachers, the blends of both models' own ends and the flow in 1, 2, 4 and 8
    steps, and a page shows the planes and tables. The page includes oftsr_reading.md beside it, if there is one: a
    person's remarks on the figures.

    Example:
        python -m recipes oftsr --photos photos/train --test photos/test,configs/data/realsr.yaml

    Args:
        output: Folder for the trainings and sweeps.
        photos: Folder of photographs to train on. Without it, the photographs that come with scikit-image.
        test: Folders of photographs to degrade and measure on, or data configurations (.yaml), several with commas
            between. Without it, the held-out sample photographs.
        chain: Folder of a finished chain, such as `make nano` leaves, with codec and stage 2. Without it, the
            package's.
        expert: A published network to measure as well, see `ctsr sweep`.
        page: The page, or a folder for it; OUTPUT/oftsr.md by default. Pictures lie beside it.
        configs: Folder of the nano configurations.
        steps: Factor on the length of both trainings.
        seeds: Runs of OFTSR and the flow with different noise; figures are means over them.
        crop: Side of the central crop of photographs to measure on.
        limit: Images of a set to stop after.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.

    Returns:
        0.
    """
    from ctsr_lightning.commands.options import listed
    from ctsr_lightning.weights.shipped import shipped_folder

    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    folder = shipped_folder() if chain is None else Path(chain).expanduser()
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, found {steps}.")
    for name in ("codec", "stage2"):
        if not (folder / name / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"Expected a finished chain with '{name}/{WEIGHTS}' in '{folder}', found none. Name the output folder "
                "of `make nano` with --chain."
            )
    source = find_photographs(photos)
    sets = _test_sets(listed(test))
    remember_photographs(output, source)
    shutil.copytree(folder / "codec", output / "codec", dirs_exist_ok=True)
    parts = len(LINKS) + len(sets)
    for number, link in enumerate(LINKS, 1):
        announce(number, parts, link.text)
        length = Length(max(2, round(configured_steps(configs, link) * steps)), 1)
        words = [*data_options(source, repeats=1), "--trainer.num_sanity_val_steps", "0"]
        train_link("oftsr", configs, output, link, length, words, device, "float32")
    flow, student = (output / link.name for link in LINKS)
    rivals = f"OFTSR={student},flow={flow}"
    settings = {"control": CONTROLS, "alphas": ALPHAS, "rivals": rivals, "steps": TEACHER_STEPS, "rival_seeds": seeds}
    settings |= {"expert": expert, "limit": limit, "device": torch_device(device), "name": "CTSR"}
    for number, (name, place) in enumerate(sets.items(), len(LINKS) + 1):
        announce(number, parts, f"measured on {name}")
        _sweep(folder / "stage2" / WEIGHTS, output / "sweeps" / name, place, crop, settings)
    path = output / "oftsr.md" if page is None else Path(page).expanduser()
    path = path if path.suffix == ".md" else path / "oftsr.md"
    write_page(path, output, list(sets), seeds)
    print(f"→ {path}")
    return 0


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


def _sweep(weights: Path, folder: Path, place: str | None, crop: int, settings: Mapping[str, Any]) -> None:
    """Measure everything on one set by `ctsr sweep`; a finished measurement stays."""
    from ctsr_lightning.commands.sweep import sweep

    if (folder / "tradeoff.json").is_file():
        print(f"complete: {folder}", flush=True)
    elif place is not None and place.endswith(".yaml"):
        sweep(weights, data=place, output=folder, **settings)
    else:
        sweep(weights, gt=place, output=folder, crop=crop, **settings)


def write_page(path: Path, output: Path, names: list[str], seeds: int) -> None:
    """Write the page: planes, tables and verdicts of finished sweeps.

    Args:
        path: The page.
        output: The folder of the trainings and sweeps.
        names: The test sets.
        seeds: Runs of OFTSR, for the text.
    """
    trained = [f"{link.name} {_length(output / link.name)}" for link in LINKS]
    reading = path.with_name(READING)
    introduction = (
        "Two ways to one model with a slider, on the same photographs, codec and degradations: CTSR moves a latent "
        "along a velocity, OFTSR (Zhu et al., ICLR 2026) distils a flow into one step that takes t. t = 0 is realness, "
        f"t = 1 fidelity for both. OFTSR draws noise; its figures are means over {seeds} seeds. `CTSR{OWN_ENDS}` are "
        "what mixing a model's images at t = 0 and t = 1 gives: a slider that stays on them need not be trained."
    )
    sections = [
        "# OFTSR beside CTSR",
        "*Generated by `python -m recipes oftsr`; do not edit.*",
        introduction,
        f"Trainings: {', '.join(trained)}.",
        *([reading.read_text(encoding="utf-8").strip()] if reading.is_file() else []),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = output / "sweeps" / name
        picture = f"oftsr_{name}.png"
        shutil.copyfile(folder / "tradeoff.png", path.parent / picture)
        text = (folder / "tradeoff.md").read_text(encoding="utf-8").strip()
        sections += [f"## {name}", f"![The plane of {name}]({picture})", text]
    with written_aside(path) as aside:
        aside.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _length(folder: Path) -> str:
    """Length of a training in words."""
    from recipes.nano.pack import weights_metadata

    steps = int(weights_metadata(folder / WEIGHTS)["steps"])
    seconds = read_training(folder).get("seconds")
    return f"{steps:,} steps" + ("" if seconds is None else f" in {seconds / 60:.0f} minutes")
