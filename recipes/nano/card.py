"""Model card of a packed chain: data, trainings, measurements and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ctsr_lightning.evaluation.labels import GROUND_TRUTH
from ctsr_lightning.evaluation.report import heading
from ctsr_lightning.tables import markdown_table
from recipes.chain import CHAIN, WEIGHTS, read_training
from recipes.nano.pack import CONFIG, Part, weights_metadata

LICENSE: Final = "Apache-2.0, as the package. The photographs are not part of it."

USE: Final = """
`ctsr upscale`, `sweep`, `evaluate` and `benchmark` take the shipped one of this kind when no checkpoint is
named, any other by `--checkpoint FOLDER/stage2/weights.safetensors`. The folder may be moved as a whole.
""".strip()

LIMITS: Final = """
- It enlarges by 4 and expects photographs as they come from phones, cameras and the web: blurred, noisy, compressed.
  Clean drawings, screenshots and small print are not what it was trained on.
- Degradations in training were synthetic (the second-order process of Real-ESRGAN). On real pairs its PSNR may lie
  below that of bicubic enlargement, as that of other networks trained so.
- It is small, made for a laptop and for tests: published full-size models restore more texture.
- Detail at t = 0 is plausible, not measured: do not read faces, plates or medical findings from it.
""".strip()

LEFT_OUT: Final = (
    "The critic of the realistic teacher's training is left out, and so are optimizers and losses. The diffusion prior "
    "is there for trainings that start from this package, as `python -m recipes demo` does."
)


def card(
    runs: Path,
    parts: Mapping[str, Part],
    data: Mapping[str, Any],
    rounding: Mapping[str, float],
    figures: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The card of a chain's folder as plain data; `parts` from `pack`, `figures` from `figure`."""
    return {
        "name": "nano",
        "text": "CTSR at laptop size: codec, prior, teachers, stage 1 and stage 2, trained from scratch on photographs",
        "data": {**data, **_recipe(runs)},
        "trainings": {link.name: _training(runs / link.name) for link in CHAIN},
        "parts": {name: part._asdict() for name, part in parts.items()},
        "type": "float16 on disk, float32 in memory",
        "rounding": dict(rounding),
        "figures": [dict(entry) for entry in figures],
        "left_out": LEFT_OUT,
        "limits": LIMITS,
        "license": LICENSE,
        "versions": dict(versions),
    }


def figure(name: str, text: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The card's entry on one sweep: name and description of the test set, and the sweep's tradeoff.json."""
    metrics = {key: value["higher_is_better"] for key, value in record["protocol"]["metrics"].items()}
    frontier, lattice = record["frontier"], record.get("lattice", {})
    verdicts = [verdict for own in frontier["monotone"].values() for verdict in own.values()]
    verdicts += [*frontier["compared"], record.get("grid_energy"), *lattice.values()]
    return {
        "name": name,
        "text": text,
        "images": record["images"],
        "metrics": metrics,
        "results": [{key: row.get(key) for key in ("setting", *metrics, "seconds")} for row in record["results"]],
        "ground_truth": {name: check["gt"] for name, check in lattice.items()},
        "sentences": [verdict["sentence"] for verdict in verdicts if verdict],
        "device": record["settings"]["device"],
    }


def training_settings(folder: Path) -> dict[str, Any]:
    """The configuration that a training has left in its folder."""
    values: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    return values


def _recipe(runs: Path) -> dict[str, Any]:
    """How training images were made, as the last training has it."""
    arguments = training_settings(runs / CHAIN[-1].name)["data"]["init_args"]
    recipe = arguments["degradation"] or {}
    degradation = recipe.get("class_path", "realesrgan").rsplit(".", maxsplit=1)[-1]
    if settings := recipe.get("init_args"):
        degradation += f"({', '.join(f'{name}={value}' for name, value in settings.items())})"
    names = ("scale", "crop", "batch_size", "pool", "seed")
    return {"degradation": degradation, **{name: arguments[name] for name in names}}


def _training(folder: Path) -> dict[str, Any]:
    """How one training of the chain was done."""
    configured = training_settings(folder)
    known = read_training(folder)
    return {
        "class": configured["model"]["class_path"].rsplit(".", maxsplit=1)[-1],
        "steps": int(weights_metadata(folder / WEIGHTS)["steps"]),
        "seconds": round(known["seconds"], 1) if "seconds" in known else None,
        "device": known.get("device"),
        "precision": configured["trainer"]["precision"],
        "seed": configured["seed_everything"],
        "perceptual": known.get("perceptual"),
        "note": known.get("note"),
    }


def card_markdown(record: Mapping[str, Any]) -> str:
    """The card for a reader, from the card as plain data."""
    data, rounding, trainings, parts = (record[key] for key in ("data", "rounding", "trainings", "parts"))
    pool = "made anew for every step" if data["pool"] is None else f"{data['pool']:,} different ones"
    size = sum(part["bytes"] for part in parts.values()) / 1e6
    images = (
        f"{data['photographs']} photographs ({data['name']}), {data['validated_on']} others to watch; crops of "
        f"{data['crop']} pixels, degraded by `{data['degradation']}` and reduced by {data['scale']}, {pool}; "
        f"{data['batch_size']} per step; data seed {data['seed']}."
    )
    rounded = (
        f"Rounding the weights to float16 changed {rounding['changed']:.2%} of the 8-bit values of restored crops "
        f"(t = 0, 0.5, 1), none by more than {rounding['largest']:.0f}."
    )
    measured = "By `ctsr sweep` on these files, in float32."
    not_measured = "None were measured: name photographs with `python -m recipes nano --test`."
    head = ["training", "class", "steps", "minutes", "device", "precision", "seed", "perceptual loss"]
    sizes = ([n, f"{p['parameters']:,}", f"{p['bytes'] / 1e6:.2f}"] for n, p in parts.items())
    sections = [
        f"# {record['name']}",
        f"{record['text']}. {size:.1f} MB, {record['type']}.",
        "*Written by `python -m recipes nano`, do not edit; `card.json` has the same as data.*",
        "## Use",
        USE,
        "## Training",
        images,
        markdown_table(head, (_training_row(name, training) for name, training in trainings.items())),
        *(f"{name}: {training['note']}" for name, training in trainings.items() if training["note"]),
        rounded,
        markdown_table(["folder", "parameters", "MB"], sizes),
        record["left_out"],
        "## Figures",
        measured if record["figures"] else not_measured,
        *(part for entry in record["figures"] for part in (f"### {entry['name']}", *figure_sections(entry))),
        "## Limits",
        record["limits"],
        "## Licence",
        record["license"],
        "## Versions",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
    ]
    return "\n\n".join(sections) + "\n"


def _training_row(name: str, training: Mapping[str, Any]) -> list[str]:
    minutes = "" if training["seconds"] is None else f"{training['seconds'] / 60:.1f}"
    cells = [name, training["class"], f"{training['steps']:,}", minutes, training["device"] or "not recorded"]
    return [*cells, training["precision"], str(training["seed"]), training["perceptual"] or ""]


def figure_sections(entry: Mapping[str, Any]) -> list[str]:
    """Description, table and sentences on one test set, an entry as `figure` returns it."""
    names, truth = list(entry["metrics"]), entry.get("ground_truth") or {}
    rows = [*entry["results"], *([{"setting": GROUND_TRUTH, **truth}] if truth else [])]
    cells = [
        [row["setting"], *(_number(row.get(name), 4) for name in names), _number(row.get("seconds"), 2)] for row in rows
    ]
    head = ["", *(heading(name, better) for name, better in entry["metrics"].items()), "s / image"]
    text = f"{entry['images']} image{'s' * (entry['images'] != 1)}: {entry['text']}; {entry['device']}."
    sentences = "\n".join(f"- {sentence}" for sentence in entry["sentences"])
    return [text, markdown_table(head, cells), *([sentences] if sentences else [])]


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
