"""The model card of a packed chain: what it was trained on and how, what was measured, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ctsr_lightning.evaluation.labels import GROUND_TRUTH
from ctsr_lightning.evaluation.report import heading
from recipes.chain import CHAIN, WEIGHTS, read_training
from recipes.nano.pack import CONFIG, Part, weights_metadata

LICENSE: Final = "Apache-2.0, as the package. The photographs are not part of it."

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
    """The card as plain data.

    Args:
        runs: The chain's folder.
        parts: What the package holds, as `pack` returns it.
        data: Name and number of the photographs.
        rounding: What float16 does to restored images.
        figures: What was measured, as `figure` returns it.
        versions: Versions of what it was made with.
    """
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
    """What the card says of one sweep.

    Args:
        name: Name of the test set.
        text: What it is.
        record: The sweep's tradeoff.json.
    """
    metrics = list(record["protocol"]["metrics"])
    frontier = record["frontier"]
    lattice = record.get("lattice", {})
    verdicts = [*frontier["monotone"].values(), frontier["blend"], record.get("grid_energy"), *lattice.values()]
    return {
        "name": name,
        "text": text,
        "images": record["images"],
        "metrics": {key: value["higher_is_better"] for key, value in record["protocol"]["metrics"].items()},
        "results": [{key: row.get(key) for key in ("setting", *metrics, "seconds")} for row in record["results"]],
        "ground_truth": {name: check["gt"] for name, check in lattice.items()},
        "sentences": [verdict["sentence"] for verdict in verdicts if verdict],
        "device": record["settings"]["device"],
    }


def settings(folder: Path) -> dict[str, Any]:
    """What a training was configured with.

    Args:
        folder: The training's folder.
    """
    values: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    return values


def _recipe(runs: Path) -> dict[str, Any]:
    """How training images were made, as the last training has it."""
    arguments = settings(runs / CHAIN[-1].name)["data"]["init_args"]
    degradation = (arguments["degradation"] or {}).get("class_path", "realesrgan").rsplit(".", maxsplit=1)[-1]
    names = ("scale", "crop", "batch_size", "pool", "seed")
    return {"degradation": degradation, **{name: arguments[name] for name in names}}


def _training(folder: Path) -> dict[str, Any]:
    """How one training of the chain was done."""
    configured = settings(folder)
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


def markdown(record: Mapping[str, Any]) -> str:
    """The card for a reader.

    Args:
        record: The card as plain data.
    """
    data, rounding = record["data"], record["rounding"]
    size = sum(part["bytes"] for part in record["parts"].values()) / 1e6
    images = (
        f"{data['photographs']} photographs ({data['name']}), {data['validated_on']} others to watch; crops of "
        f"{data['crop']} pixels, degraded by `{data['degradation']}` and reduced by {data['scale']}, "
        f"{_pool(data['pool'])}; {data['batch_size']} per step; data seed {data['seed']}."
    )
    rounded = (
        f"Rounding the weights to float16 changed {rounding['changed']:.2%} of the 8-bit values of restored crops "
        f"(t = 0, 0.5, 1), none by more than {rounding['largest']:.0f}."
    )
    measured = "By `ctsr sweep` on these files, in float32."
    lines = [
        f"# {record['name']}",
        "",
        f"{record['text']}. {size:.1f} MB, {record['type']}.",
        "",
        "*Written by `python -m recipes nano`, do not edit; `card.json` has the same as data.*",
        "",
        "## Use",
        "",
        "`ctsr upscale`, `sweep`, `evaluate` and `benchmark` take the shipped one of this kind when no checkpoint is",
        "named, any other by `--checkpoint FOLDER/stage2/weights.safetensors`. The folder may be moved as a whole.",
        "",
        "## Training",
        "",
        images,
        "",
        "| training | class | steps | minutes | device | precision | seed | perceptual loss |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, training) for name, training in record["trainings"].items()),
        "",
        *(f"{name}: {training['note']}\n" for name, training in record["trainings"].items() if training["note"]),
        rounded,
        "",
        "| folder | parameters | MB |",
        "|---|---|---|",
        *(f"| {n} | {p['parameters']:,} | {p['bytes'] / 1e6:.2f} |" for n, p in record["parts"].items()),
        "",
        record["left_out"],
        "",
        "## Figures",
        "",
        measured if record["figures"] else "None were measured: name photographs with `python -m recipes nano --test`.",
    ]
    for entry in record["figures"]:
        lines += ["", f"### {entry['name']}", "", *_table(entry)]
    lines += ["", "## Limits", "", record["limits"]]
    lines += ["", "## Licence", "", record["license"], "", "## Versions", ""]
    lines += [", ".join(f"{name} {number}" for name, number in record["versions"].items())]
    return "\n".join(lines) + "\n"


def _pool(pool: int | None) -> str:
    return "made anew for every step" if pool is None else f"{pool:,} different ones"


def _row(name: str, training: Mapping[str, Any]) -> str:
    minutes = "" if training["seconds"] is None else f"{training['seconds'] / 60:.1f}"
    cells = [name, training["class"], f"{training['steps']:,}", minutes, training["device"] or "not recorded"]
    cells += [training["precision"], str(training["seed"]), training["perceptual"] or ""]
    return f"| {' | '.join(cells)} |"


def _table(entry: Mapping[str, Any]) -> list[str]:
    """Figures of one test set."""
    names = list(entry["metrics"])
    lines = [
        f"{entry['images']} image{'s' * (entry['images'] != 1)}: {entry['text']}; {entry['device']}.",
        "",
        f"| | {' | '.join(heading(name, better) for name, better in entry['metrics'].items())} | s / image |",
        f"|{'---|' * (len(names) + 2)}",
    ]
    for row in entry["results"]:
        cells = ["" if row[name] is None else f"{row[name]:.4f}" for name in names]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        lines.append(f"| {' | '.join([row['setting'], *cells, seconds])} |")
    truth = entry.get("ground_truth")
    if truth:
        cells = [f"{truth[name]:.4f}" if name in truth else "" for name in names]
        lines.append(f"| {' | '.join([GROUND_TRUTH, *cells, ''])} |")
    return [*lines, *([""] if entry["sentences"] else []), *(f"- {sentence}" for sentence in entry["sentences"])]
