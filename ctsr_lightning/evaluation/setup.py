"""Parts of an evaluation: metrics, methods, images, and caveats on the figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctsr_lightning.configs import find_config
from ctsr_lightning.evaluation.labels import GRID, PER_IMAGE
from ctsr_lightning.inference.settings import Color, Space, parse_controls

if TYPE_CHECKING:
    from ctsr_lightning.data import RealESRGANDataModule
    from ctsr_lightning.evaluation.experts import Expert
    from ctsr_lightning.evaluation.measurements import Measurements
    from ctsr_lightning.evaluation.methods import Methods
    from ctsr_lightning.evaluation.records import Records
    from ctsr_lightning.inference.restorer import Restorer

Baselines = Literal["all", "bicubic", "none"]
"""Baselines of a model: bicubic enlargement, its teachers and their blend; bicubic alone; nothing."""

FEW = 1000
"""Images below which a Fréchet distance is mostly bias."""


def build_metrics(
    names: Sequence[str], *, skip_unavailable: bool, grid_factor: int | None = None, border: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Metrics by name, and notes on those left out.

    Args:
        names: Full names.
        skip_unavailable: Leave out those whose weights are not on this machine.
        grid_factor: Side of a patch for `grid_energy`; None for the metric's own default.
        border: Pixels that are cut off every side first, which shifts that grid.

    Raises:
        FileNotFoundError: If weights are missing and that is not allowed, or nothing is left.
        ValueError: If the patch is smaller than 2 pixels.
    """
    from ctsr_lightning.metrics.grid import GridEnergy
    from ctsr_lightning.metrics.named import named_metrics

    built, missing = named_metrics(names)
    if GRID in built:
        built[GRID] = GridEnergy(cut=border) if grid_factor is None else GridEnergy(grid_factor, border)
    if not missing:
        return built, []
    if skip_unavailable and built:
        return built, [f"**Left out, weights not on this machine: {', '.join(missing)}.**"]
    reasons = "\n".join(f"- {name}: {error}" for name, error in missing.items())
    remedy = "none is left" if skip_unavailable else "--skip-unavailable leaves them out"
    raise FileNotFoundError(
        f"Expected the weights of {len(names)} metrics, {len(missing)} lack theirs ({remedy}).\n{reasons}"
    )


def build_methods(
    restorer: Restorer,
    controls: float | Sequence[float] | str | None,
    alphas: float | Sequence[float] | str,
    baselines: Baselines,
    files: Sequence[str | Path] = (),
    **options: Any,
) -> tuple[Methods, list[str]]:
    """Methods of a comparison, and notes on those that are absent.

    Args:
        restorer: The model; the checkpoint that it was read from names its teachers.
        controls: Values of t; None for a few that the model has.
        alphas: Shares of T_f in the blend.
        baselines: What takes part.
        files: Published restoration networks that take part as well.
        **options: Further arguments of `Methods`.

    Raises:
        FileNotFoundError: If the weights of a teacher or network are not there.
        ValueError: If a value of t is not to be had, or a file holds no network of the model's scale.
    """
    from ctsr_lightning.evaluation.experts import Expert
    from ctsr_lightning.evaluation.methods import Methods
    from ctsr_lightning.inference.loading import load_teachers

    values = parse_controls(controls if controls is not None else "0,0.5,1" if restorer.controllable else "0")
    for value in values:
        restorer.check_control(value)
    further, shares = file_experts(restorer, files), parse_controls(alphas)
    if baselines != "all":
        return Methods(restorer, values, further, shares, bicubic=baselines == "bicubic", **options), []
    if restorer.source is None:
        raise ValueError("Expected a model that was read from a checkpoint, which names its teachers; or no teachers.")
    try:
        teachers = load_teachers(restorer.source, restorer.prompt)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The model's teachers are to be measured beside it, but cannot be built: {error} "
            "Leave them out with --baselines bicubic."
        ) from error
    experts = {
        label: Expert(teacher, restorer.device, restorer.dtype, restorer.tile) for label, teacher in teachers.items()
    }
    absent = [label for label in ("T_f", "T_r") if label not in experts]
    remarks = (
        [f"The checkpoint names no {' and no '.join(absent)}: no blend of the teachers is measured."] if absent else []
    )
    return Methods(restorer, values, {**experts, **further}, shares, **options), remarks


def load_rivals(restorer: Restorer, rivals: Mapping[str, Restorer | str | Path]) -> dict[str, Restorer]:
    """Rivals of a model, which restore as it does (device, precision, tiles, ...), with its prompt if they take one.

    Args:
        restorer: The model that they are compared with.
        rivals: Restorers, or their names as in `Restorer.from_pretrained`, by the names of their curves.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is damaged, or belongs to a training without a student.
    """
    from ctsr_lightning.inference.loading import read_configuration
    from ctsr_lightning.inference.pretrained import find_model
    from ctsr_lightning.inference.prompting import takes_prompt
    from ctsr_lightning.inference.restorer import Restorer

    def load(name: str | Path) -> Restorer:
        path = find_model(name)
        prompt = restorer.prompt if takes_prompt(read_configuration(path)) else None
        shared: dict[str, Any] = {"tile": restorer.tile, "color": restorer.color, "space": restorer.space}
        return Restorer.from_pretrained(path, restorer.device, restorer.dtype, prompt=prompt, **shared)

    return {name: rival if isinstance(rival, Restorer) else load(rival) for name, rival in rivals.items()}


def file_experts(restorer: Restorer, files: Sequence[str | Path]) -> dict[str, Expert]:
    """Published restoration networks, which restore on the model's device, in its precision and tiles.

    Args:
        restorer: The model that they are compared with.
        files: Their weights, whatever their architecture.

    Returns:
        The networks by file stem and architecture.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If it holds no network of the model's scale, or two have one name.
    """
    from ctsr_lightning.evaluation.experts import Expert
    from ctsr_lightning.teachers import ExpertTeacher

    experts: dict[str, Expert] = {}
    for file in files:
        teacher = ExpertTeacher(Path(file), restorer.scale)
        label = f"{Path(file).stem} ({teacher.frozen.network.architecture})"
        if label in experts:
            raise ValueError(f"Expected files of different names in --expert, found two of {label}. Rename one.")
        experts[label] = Expert(teacher, restorer.device, restorer.dtype, restorer.tile)
    return experts


def recorded_files(files: Sequence[str | Path]) -> list[dict[str, str]]:
    """Weight files for the record of a measurement: names and hashes.

    Args:
        files: The files.
    """
    from ctsr_lightning.files import file_hash

    return [{"file": Path(file).name, "sha256": file_hash(Path(file).expanduser())} for file in files]


@contextmanager
def save_partial_on_error(
    output: str | Path | None, measurements: Measurements, records: Records | None = None
) -> Iterator[None]:
    """Within this context, what was measured before something went wrong is written as incomplete_per_image.csv.

    Args:
        output: Folder for it; None writes nothing.
        measurements: The measurements.
        records: What is kept of each image; one of several processes writes nothing else.
    """
    from ctsr_lightning.evaluation.report import write_per_image

    if output is None:
        yield
        return
    output = Path(output).expanduser()
    incomplete = output / f"incomplete_{PER_IMAGE}"
    try:
        yield
    except BaseException:
        further = "" if records is None else " The same command goes on after the last image that was measured."
        if measurements.rows and (records is None or records.share.ranks == 1):
            output.mkdir(parents=True, exist_ok=True)
            write_per_image(incomplete, measurements)
            sys.stderr.write(f"The values measured until then are in '{incomplete}'.{further}\n")
        elif measurements.rows:
            sys.stderr.write(f"ctsr:{further}\n")
        raise
    incomplete.unlink(missing_ok=True)


def setting_notes(color: Color, space: Space) -> list[str]:
    """Notes on a correction of colours, which moves PSNR by tenths of a decibel, and on where t acts.

    Args:
        color: The correction.
        space: Where t acts.
    """
    colours = [] if color == "none" else [f"Colours of the model, its teachers and experts corrected by `{color}`."]
    return colours + ["t mixes the decoded images of t = 0 and t = 1 (`space: image`)."] * (space == "image")


def caveats(measurements: Measurements) -> list[str]:
    """Caveats on the figures, for their reader.

    Args:
        measurements: The measurements.
    """
    from ctsr_lightning.evaluation.report import grid_check, lattice_checks

    remarks = []
    few = [name for name in measurements.metrics if name.startswith("fid_")]
    if few and measurements.images < FEW:
        remarks.append(
            f"**FID over {measurements.images} images is biased and noisy**: compare it only with FID over the same "
            "images."
        )
    if "texture_distance" in measurements.metrics:
        remarks.append(
            "**texture_distance is this project's stand-in, not LPIPS.** Its values compare with each other only."
        )
    if check := grid_check(measurements):
        remarks.append(check.sentence())
    remarks += [check.sentence() for check in lattice_checks(measurements).values()]
    return remarks


def image_remarks(module: RealESRGANDataModule) -> list[str]:
    """Notes on images that are left out of a measurement, and on transparent ones, which are measured over white.

    Args:
        module: The data module, set up.
    """
    from ctsr_lightning.images import image_kind

    remarks = [f"**{remark}**" for remark in module.remarks.values()]
    paths = module.test_images
    if clear := [path for path in paths if image_kind(path) == "transparent"]:
        named = ", ".join(f"'{path.name}'" for path in clear[:3]) + " ..." * bool(clear[3:])
        remarks.append(
            f"**{len(clear)} of {len(paths)} images have transparent pixels and were laid over white: {named}.**"
        )
    return remarks


def benchmark_data(
    scale: int,
    lq: str | Path | None,
    gt: str | Path | None,
    data: str | Path | None = None,
    degradation: Literal["realesrgan", "light"] = "realesrgan",
    seed: int = 0,
    crop: int | None = None,
    repeats: int = 1,
) -> tuple[RealESRGANDataModule, str]:
    """The data module whose test set is measured, and what to call it.

    Args:
        scale: The model's enlargement.
        lq: Folder of low-quality images, or None to make them.
        gt: Folder of ground truth, or None for the built-in photos.
        data: A data configuration, in place of both.
        degradation: How low-quality images are made.
        seed: Seed of that.
        crop: Side of a central crop.
        repeats: Crops per image.

    Raises:
        ValueError: If the configuration's scale is not the model's.
    """
    from ctsr_lightning.data import PairFolder, RealESRGANDataModule
    from ctsr_lightning.degradation import light, realesrgan

    if data is not None:
        module = load_data(data)
        if module.scale != scale:
            raise ValueError(
                f"Expected data of the model's scale {scale} in '{data}', found {module.scale}. Name others."
            )
        return module, Path(data).stem
    degrade = light() if degradation == "light" else realesrgan()
    module = RealESRGANDataModule(
        test=[gt] if gt and not lq else None,
        test_pairs=[PairFolder(lq, gt)] if gt and lq else None,
        scale=scale,
        crop=64 * scale,  # of training, which does not happen here
        val_crop=crop,
        val_repeats=repeats,
        num_workers=0,
        degradation=degrade,
        seed=seed,
    )
    name = str(gt) if gt else "photos of scikit-image"
    return module, name if lq else f"{name}; low quality by {degradation}, seed {seed}"


def load_data(path: str | Path) -> RealESRGANDataModule:
    """The data module that a configuration such as configs/data/realsr.yaml describes.

    Args:
        path: The YAML file, with `class_path` and `init_args`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not describe a data module.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from ctsr_lightning.data import RealESRGANDataModule

    file = find_config(path)
    if not file.is_file():
        raise FileNotFoundError(f"Expected a data configuration at '{file}', found nothing. `ctsr configs` lists some.")
    parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
    parser.add_subclass_arguments(RealESRGANDataModule, "data", required=True)
    try:
        module: RealESRGANDataModule = parser.instantiate(parser.parse_args(["--data", str(file)])).data
    except ArgumentError as error:
        raise ValueError(f"'{file}' is not the configuration of a RealESRGANDataModule: {error}") from error
    return module
