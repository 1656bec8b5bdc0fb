"""From the checkpoint of a training to the networks that restore, without what only training needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from ctsr_lightning.inference.merged import MERGED, load_merged
from ctsr_lightning.inference.prompting import check_prompt, with_prompt
from ctsr_lightning.inference.trust import only_nameable, refuse_foreign_code, stranger_error
from ctsr_lightning.models import OneStepStudent, RestorationModel, TradeOff
from ctsr_lightning.models.tradeoff import Z0Source
from ctsr_lightning.networks.velocity import VelocityField, VelocityStart
from ctsr_lightning.teachers.base import Teacher
from ctsr_lightning.weights.reading import load_weights, read_checkpoint, read_state
from ctsr_lightning.weights.search import find_weights, weight_search_path

_DENIED: Final = re.compile(r"Importing '([^']+)' is not allowed")
"""jsonargparse's words for what `only_nameable` does not let it import."""


def load_model(path: Path, prompt: str | None = None) -> RestorationModel:
    """Build the networks that a checkpoint restores with and give them its weights.

    The trainings store their configuration as plain values, in the checkpoint's `hyper_parameters` and in the
    `config.yaml` beside `weights.safetensors`. Of these only `student`, a restoration model of any class, is used and,
    where there is one beside it, as in stage 2, `velocity` with `velocity_start` and `z0_source`; teachers are never
    built. Weights are strict, averages preferred. An exported model has all of them in its own files (`MERGED`).

    Args:
        path: A Lightning checkpoint of a training with a `student`, or the `weights.safetensors` of one.
        prompt: A text, or a caption file, in place of the model's own prompt, which is not built then.

    Returns:
        The student; with a velocity field the two as `TradeOff`.

    Raises:
        FileNotFoundError: If it, or a weight file that it builds on, is not there.
        ValueError: If it is not a checkpoint, is damaged, or belongs to a training without a student, or a prompt is
            given to a model that takes none.
    """
    path = path.expanduser()
    config = read_configuration(path)
    training = str(config.get("_class_path", "an unknown training")).rsplit(".", maxsplit=1)[-1]
    if "class_path" not in (config.get("student") or {}):
        raise ValueError(
            f"Expected a checkpoint of a training with a student (CTSRStage1, CTSRStage2 or OneStepTraining) at "
            f"'{path}', found one of {training}. Name the checkpoint of stage 1 or stage 2."
        )
    if prompt is not None:
        check_prompt(config, path)
        config = with_prompt(config, prompt)
    types: dict[str, Any] = {"student": RestorationModel}
    if "velocity" in config:
        types = {"student": OneStepStudent, "velocity": VelocityField}
        types |= {"z0_source": Z0Source, "velocity_start": VelocityStart}
    config = {"z0_source": "latent", "velocity_start": "base", **config}
    path = path.absolute()  # it is not to be looked up below the folders that are searched
    with weight_search_path(*path.resolve().parents):
        built = _build(types, {key: config[key] for key in types}, path)
        student: RestorationModel = built.student
        if MERGED in config:
            whole = TradeOff(built.student, built.velocity, built.z0_source) if "velocity" in types else student
            return load_merged(whole, path, config[MERGED])
        if "velocity" not in types:
            if any(name.startswith("codec.") for name in read_state(path)):  # the student is what was not trained
                student.codec.load_decoder(path)
            else:
                load_weights(student, path, prefix="student.", only_trainable=True)
            return student
        velocity: VelocityField = built.velocity
        if built.velocity_start == "student":
            velocity.begin_as(built.student.unet)
        load_weights(velocity, path, prefix="velocity.", only_trainable=True)
        return TradeOff(built.student, velocity, built.z0_source)


def load_teachers(path: str | Path, prompt: str | None = None) -> dict[str, Teacher]:
    """Build the teachers that a checkpoint of stage 1 or 2 names, with their own weights.

    Args:
        path: The checkpoint, or the `weights.safetensors` of one.
        prompt: As in `load_model`, for those of them that take texts.

    Returns:
        `T_f` and `T_r`, those of them that the training had.

    Raises:
        FileNotFoundError: If the checkpoint, or a weight file of a teacher, is not there.
        ValueError: If it is not a checkpoint or is damaged.
    """
    path = Path(path).expanduser()
    config = read_configuration(path)
    config = config if prompt is None else with_prompt(config, prompt)
    named = {"T_f": "fidelity", "T_r": "realness"}
    found = {label: key for label, key in named.items() if "class_path" in (config.get(key) or {})}
    with weight_search_path(*path.resolve().parents):
        built = _build(dict.fromkeys(found.values(), Teacher), {key: config[key] for key in found.values()}, path)
    return {label: built[key] for label, key in found.items()}


def read_configuration(path: Path) -> dict[str, Any]:
    """The plain values that a training was built from.

    Args:
        path: Its checkpoint, or the `weights.safetensors` of one.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not a checkpoint, or is damaged.
    """
    if path.suffix == ".safetensors":
        return _read_beside(path)
    values: dict[str, Any] = read_checkpoint(path).get("hyper_parameters", {})
    return values


def _build(types: dict[str, Any], values: dict[str, Any], path: Path) -> Any:
    """Make the objects that plain values describe."""
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    with only_nameable():
        try:
            parsed = parser.parse_object(values)
            refuse_foreign_code(parsed.as_dict(), path)
            return parser.instantiate(parsed)
        except ArgumentError as error:
            if denied := _DENIED.search(str(error)):
                raise stranger_error(path, denied.group(1)) from error
            raise ValueError(
                f"The configuration in the checkpoint '{path}' does not fit this version of ctsr_lightning: {error}"
            ) from error


def _read_beside(weights: Path) -> dict[str, Any]:
    """The model's configuration in the `config.yaml` of the training that wrote a weight file."""
    path = find_weights(weights).with_name("config.yaml")
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the training's config.yaml beside '{weights}', found none: a safetensors file holds weights "
            "only. Keep both together, or name a checkpoint (.ckpt), which holds both."
        )
    contents = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    model = contents.get("model") or {}
    merged = {MERGED: contents[MERGED] or {}} if MERGED in contents else {}
    return {"_class_path": model.get("class_path", ""), **model.get("init_args", {}), **merged}
