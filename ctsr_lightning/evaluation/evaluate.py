"""Evaluation of restored images and of models: the engine behind `ctsr evaluate` and `ctsr sweep`, for Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from torchmetrics import Metric

from ctsr_lightning.data.files import ImageCache
from ctsr_lightning.data.pairing.layouts import gt_folder
from ctsr_lightning.data.pairing.matching import match_files
from ctsr_lightning.evaluation import folders
from ctsr_lightning.evaluation.labels import GRID
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.measuring import announce, collect, load_batches, load_images, measure_methods
from ctsr_lightning.evaluation.records import open_records
from ctsr_lightning.evaluation.report import Report
from ctsr_lightning.evaluation.setup import (
    Baselines,
    benchmark_data,
    build_methods,
    build_metrics,
    caveats,
    image_remarks,
    load_data,
    load_rivals,
    recorded_files,
    save_partial_on_error,
    setting_notes,
)
from ctsr_lightning.images.listing import named_path
from ctsr_lightning.inference.devices import describe_device, pick_device
from ctsr_lightning.inference.pretrained import describe_model, identify_model
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.lattice import lattices
from ctsr_lightning.metrics.named import metric_names
from ctsr_lightning.metrics.perceptual import LPIPS, PerceptualMetric, perceptual_distance
from ctsr_lightning.progress import progress
from ctsr_lightning.prompts.captions import describe_prompt
from ctsr_lightning.share import ALONE, Share
from ctsr_lightning.weights.search import weight_search_path

if TYPE_CHECKING:
    from ctsr_lightning.data.pairing.folders import PairFolder
    from ctsr_lightning.data.pairing.matching import Affixes
    from ctsr_lightning.evaluation.pictures import Examples

LOSSY: Final = frozenset({".jpg", ".jpeg", ".webp"})
"""Formats whose compression the figures include."""
EQUAL: Final = "equal stems"
"""How files were paired whose names have nothing to take off."""
REMEDY: Final = (
    "Add or remove files, or say what the names of each folder carry: --restored-prefix, --restored-suffix, "
    "--gt-prefix, --gt-suffix."
)


def evaluate_folder(
    restored: str | Path,
    gt: str | Path | None = None,
    metrics: str | Sequence[str] = ("psnr", "ssim"),
    *,
    data: str | Path | None = None,
    names: Affixes | None = None,
    crop_border: int = 0,
    grid_factor: int | None = None,
    limit: int | None = None,
    weights: Sequence[str | Path] = (),
    download: bool = False,
    skip_unavailable: bool = False,
    device: str = "auto",
    name: str | None = None,
    output: str | Path | None = None,
    share: Share = ALONE,
) -> Report:
    """Measure finished images against ground truth, paired by file stem; all are checked before one is measured.

    Args:
        restored: Folder of restored images.
        gt: Folder of ground truth, or of a benchmark in a usual layout.
        metrics: Names of metrics, see `ctsr evaluate --help`.
        data: Data configuration whose ground truth is taken, in place of `gt`.
        names: What the names of each folder carry beside the stem; None finds it out.
        crop_border: Pixels that are cut off every side first.
        grid_factor: Side in pixels of the patches that `grid_energy` looks for.
        limit: Number of images to stop after.
        weights: Folders with weight files of the metrics, searched first.
        download: Fetch missing weights of metrics.
        skip_unavailable: Leave out metrics whose weights are not on this machine.
        device: Where metrics are computed.
        name: Name of the results; by default the folder.
        output: Folder that keeps what was measured of each image until the report is saved: the same call goes on
            after an interruption, and others with their `share` take part.
        share: Which images this process measures; the last process has the results of all, the others' say what is
            `missing`.

    Returns:
        The results: `to_markdown()`, `save(folder)`, `measurements`.

    Raises:
        FileNotFoundError: If a folder, or the weights of a metric, are not there.
        ValueError: If files cannot be paired, or an image is unreadable, transparent or of another size.
    """
    wanted = metric_names(metrics)
    with weight_search_path(*weights, download=download):
        chosen, notes = build_metrics(
            wanted, skip_unavailable=skip_unavailable, grid_factor=grid_factor, border=crop_border
        )
    first = named_path(restored)
    second, pairs = _ground_truth(gt, data)
    include, exclude = (None, None) if pairs is None else (pairs.include, pairs.exclude)
    matched = match_files(first, second, names, remedy=REMEDY, include=include, exclude=exclude)
    if pairs is not None and pairs.count not in {None, len(matched.pairs)}:
        raise ValueError(f"Expected {pairs.count} pairs, as '{data}' says, found {len(matched.pairs)} in '{second}'.")
    jobs = [(path.relative_to(first).as_posix(), path, truth) for path, truth in matched.pairs.values()][:limit]
    cache = ImageCache(2**29)
    measurements = Measurements(chosen, pick_device(device), crop_border)
    files = [path for _, *both in jobs for path in both]
    records = open_records(output, measurements, {"restored": first, "gt": second}, (files, len(jobs)), share)
    numbers = records.to_measure() if records is not None else range(len(jobs))
    with progress() as bar, save_partial_on_error(output, measurements, records):
        text = announce(records, numbers)
        folders.check(bar.track([jobs[i][1:] for i in numbers], description="checking"), cache)
        own = bar.track([(i, jobs[i]) for i in numbers], description=text)
        folders.measure(own, cache, measurements, records)
    missing = collect(records, measurements) if records is not None else 0
    pairing = matched.rule.describe("restored names", "ground-truth names")
    if pairing:
        notes.append(f"Files were paired by stem; {pairing}.")
    notes += [f"Left out: '{path}', {reason}." for path, reason in matched.absent.items()]
    if lossy := sum(path.suffix.lower() in LOSSY for _, path, _ in jobs):
        notes.append(f"{lossy} restored files are JPEG or WebP: the figures include its loss.")
    settings = {
        "checkpoint": None,
        "limit": limit,
        "skipped_metrics": [name for name in wanted if name not in chosen],
        "device": describe_device(measurements.device),
        "restored": str(first),
        "gt": str(second),
        "pairing": pairing or EQUAL,
        "lossy_files": lossy,
    }
    return Report(
        measurements,
        name or str(restored),
        f"{first} against {second}",
        None if data is None else Path(data).stem,
        settings,
        notes + ([] if missing else caveats(measurements)),
        records,
        missing,
    )


def evaluate_model(
    model: Restorer | str | Path = "nano",
    lq: str | Path | None = None,
    gt: str | Path | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    data: str | Path | None = None,
    t: float | Sequence[float] | str | None = None,
    alphas: float | Sequence[float] | str = (0.25, 0.5, 0.75),
    baselines: Baselines = "all",
    experts: Sequence[str | Path] = (),
    rivals: Mapping[str, Restorer | str | Path] | None = None,
    steps: Sequence[int] = (),
    seeds: int = 1,
    rival_seeds: int = 3,
    degradation: Literal["realesrgan", "light"] = "realesrgan",
    seed: int = 0,
    crop: int | None = None,
    repeats: int = 1,
    crop_border: int = 0,
    patterns: bool | None = None,
    perceptual: Literal["squeeze", "alex", "vgg"] | None = None,
    grid_factor: int | None = None,
    limit: int | None = None,
    weights: Sequence[str | Path] = (),
    download: bool = False,
    skip_unavailable: bool = False,
    examples: Examples | None = None,
    name: str | None = None,
    output: str | Path | None = None,
    share: Share = ALONE,
) -> Report:
    """Restore a data set by a model and what it is compared with, and measure all of it.

    The images are those of `data`; else pairs of `lq` and `gt`; else `gt` degraded in a fixed way; else the photographs
    that come with scikit-image.

    Args:
        model: A restorer, or its name as in `Restorer.from_pretrained`.
        lq: Folder of low-quality images.
        gt: Folder of ground truth.
        metrics: Names of metrics, see `ctsr evaluate --help`; None takes PSNR and SSIM with `patterns`.
        data: Data configuration whose test set is measured.
        t: Values of t; None takes 0, 0.5 and 1, or 0 of a stage-1 model.
        alphas: Shares of T_f in the blend of the teachers; beside rivals, of t = 1 in the blend of a model's own ends.
        baselines: `all` (bicubic, the model's teachers, their blend), `bicubic` or `none`.
        experts: Weights of published restoration networks to measure as well.
        rivals: Further models by the names of their curves, see `Methods`.
        steps: Numbers of steps of rivals that have a choice.
        seeds: Runs with different seeds; from 2 on, G-STD and L-STD are measured.
        rival_seeds: Runs of the rivals, over which their figures are means.
        degradation: How ground truth is degraded where there are no low-quality images.
        seed: Seed of that.
        crop: Side of a central crop of the ground truth in pixels; None takes whole images.
        repeats: Crops per image.
        crop_border: Pixels that are cut off every side before measuring.
        patterns: Measure `grid_energy` and lattices of the codec's period; None does so where no metrics are named.
        perceptual: Backbone of an LPIPS to measure; without its weights `texture_distance` takes its place.
        grid_factor: Side in pixels of the patches that `grid_energy` looks for; None takes the codec's factor.
        limit: Number of images to stop after.
        weights: Folders with weight files of the metrics, searched first.
        download: Fetch missing weights of metrics.
        skip_unavailable: Leave out metrics whose weights are not on this machine.
        examples: Collects images to show side by side.
        name: Name of the results; by default the model's.
        output: Folder that keeps what was measured of each image until the report is saved: the same call goes on
            after an interruption, and others with their `share` take part.
        share: Which images this process measures; the last process has the results of all, the others' say what is
            `missing`.

    Returns:
        The results: `to_markdown()`, `save(folder)`, `measurements`.

    Raises:
        FileNotFoundError: If the model, images, or the weights of a metric, teacher or expert are not there.
        ValueError: If arguments do not go together, the model cannot restore at a value of t, or a rival is of another
            scale, or has a name that is taken.
    """
    restorer = model if isinstance(model, Restorer) else Restorer.from_pretrained(model)
    others: dict[str, Any] = {"rivals": load_rivals(restorer, rivals or {}), "steps": steps, "rival_seeds": rival_seeds}
    methods, notes = build_methods(
        restorer, t, alphas, baselines, experts, name=name or restorer.model.method, seeds=seeds, **others
    )
    factor = restorer.model.codec.factor
    wanted = metric_names(metrics if metrics is not None else "psnr,ssim")
    own: dict[str, Metric] = {}
    with weight_search_path(*weights, download=download):
        if perceptual is not None:
            distance = perceptual_distance(perceptual)
            own[distance.name] = PerceptualMetric(distance)
        if patterns or (patterns is None and metrics is None) or GRID in wanted:
            own[GRID] = GridEnergy(factor if grid_factor is None else grid_factor, crop_border)
        if patterns or (patterns is None and metrics is None):
            own |= lattices(factor)
        named = [name for name in wanted if name not in own]
        chosen: Mapping[str, Metric] = {}
        if named:
            chosen, missing = build_metrics(named, skip_unavailable=skip_unavailable)
            notes += missing
    module, source = benchmark_data(restorer.scale, lq, gt, data, degradation, seed, crop, repeats)
    total = load_images(module, limit)
    notes += image_remarks(module)
    measurements = Measurements({**chosen, **own}, restorer.device, crop_border)
    if examples is not None:
        examples.every = max(1, total // max(1, examples.count))
    settings: dict[str, Any] = {
        "checkpoint": describe_model(restorer.source),
        "data": source,
        "limit": limit,
        "crop": crop,
        "repeats": repeats,
        "skipped_metrics": [name for name in wanted if name not in measurements.metrics],
        "tile": restorer.tile,
        "device": describe_device(restorer.device),
        "precision": str(restorer.dtype).removeprefix("torch."),
        "color": restorer.color,
        "space": restorer.space,
        "prompt": describe_prompt(restorer.prompt),
        "experts": recorded_files(experts),
        "scale": restorer.scale,
        "controls": methods.controls,
    }
    if methods.rivals:
        described = {label: describe_model(rival.source) for label, rival in methods.rivals.items()}
        settings |= {"rivals": described, "steps": list(steps), "rival_seeds": rival_seeds}
    if perceptual is not None:
        settings |= {"perceptual": distance.name, "perceptual_is_lpips": isinstance(distance, LPIPS)}
    compared: dict[str, Any] = {
        "baselines": ["bicubic"] * methods.bicubic + list(methods.experts),
        "alphas": methods.alphas,
        "examples": None if examples is None else examples.count,
        "curve": methods.name,
        "seeds": seeds,
    }
    models = [restorer, *methods.rivals.values()]
    sources = [each.source for each in models if each.source is not None]
    compared["model"] = " ".join(identify_model(path) for path in sources)
    images, keep = (module.test_images, total), output if len(sources) == len(models) else None
    records = open_records(keep, measurements, {**settings, **compared}, images, share)
    numbers = records.to_measure() if records is not None else range(total)
    with progress() as bar, save_partial_on_error(output, measurements, records):
        batches = bar.track(load_batches(module, numbers), total=len(numbers), description=announce(records, numbers))
        measure_methods(methods, batches, measurements, examples, records, numbers)
    left = collect(records, measurements, examples) if records is not None else 0
    return Report(
        measurements,
        name or settings["checkpoint"],
        source,
        None if data is None else Path(data).stem,
        settings,
        notes + setting_notes(restorer.color, restorer.space) + ([] if left else caveats(measurements)),
        records,
        left,
    )


def _ground_truth(gt: str | Path | None, data: str | Path | None) -> tuple[Path, PairFolder | None]:
    """The folder of ground truth, and the pairs that a data configuration promises."""
    if gt is not None:
        return gt_folder(gt), None
    if data is None:
        raise ValueError("Expected ground truth: a folder `gt`, or a data configuration `data`; found neither.")
    pairs = load_data(data).pair_folders["test"]
    if len(pairs) != 1:
        raise ValueError(f"Expected one folder of test pairs in '{data}', found {len(pairs)}. Name GT instead.")
    _, folder = pairs[0].folders()
    return folder, pairs[0]
