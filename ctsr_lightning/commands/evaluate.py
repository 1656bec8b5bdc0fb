"""`ctsr evaluate`: restored images, or a model, against ground truth."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsr_lightning.commands.options import choose_model, listed, load_restorer
from ctsr_lightning.evaluation.labels import GRID, PER_IMAGE
from ctsr_lightning.evaluation.setup import (
    Baselines,
    benchmark_data,
    build_methods,
    build_metrics,
    caveats,
    colour_note,
    load_data,
    recorded_files,
    save_partial_on_error,
)
from ctsr_lightning.inference.devices import describe_device
from ctsr_lightning.inference.settings import Color, Precision
from ctsr_lightning.progress import progress

if TYPE_CHECKING:
    from ctsr_lightning.data.pairing.matching import Affixes
    from ctsr_lightning.evaluation.measurements import Measurements
    from ctsr_lightning.evaluation.methods import Methods

LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
"""Formats whose compression the figures include."""

REMEDY = (
    "Add or remove files, or say what the names of each folder carry: --restored-prefix, --restored-suffix, "
    "--gt-prefix, --gt-suffix."
)

EQUAL = "equal stems"
"""How files were paired whose names have nothing to take off."""

SUMMARY, TABLE = "summary.json", "summary.md"


def evaluate(
    restored: str | Path | None = None,
    gt: str | Path | None = None,
    /,
    metrics: str | None = None,
    output: str | Path = "runs/evaluate",
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    controls: float | list[float] | str | None = None,
    alphas: float | list[float] | str = "0.25,0.5,0.75",
    baselines: Baselines = "all",
    expert: str | list[str] | None = None,
    seeds: int = 1,
    weights: str | list[str] | None = None,
    download: bool = False,
    skip_unavailable: bool = False,
    crop_border: int = 0,
    grid_factor: int | None = None,
    restored_prefix: str = "",
    restored_suffix: str = "",
    gt_prefix: str = "",
    gt_suffix: str = "",
    limit: int | None = None,
    name: str | None = None,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    color: Color = "none",
) -> int:
    """Measure restored images, or a model on a data set, against ground truth by the field's published protocol.

    A folder against a folder, paired by file stem:
        ctsr evaluate RESTORED GT --metrics psnr,ssim,niqe --output runs/evaluate
    A model, with its teachers, their blend and bicubic enlargement in the same table:
        ctsr evaluate LQ GT --checkpoint runs/stage2/last.ckpt
        ctsr evaluate --checkpoint runs/stage2/last.ckpt --data configs/data/realsr.yaml
    The same with published networks beside it, here beside the model that comes with this package:
        ctsr evaluate LQ GT --expert RealESRGAN_x4plus.pth

    Writes per_image.csv, summary.json (with the protocol, hashes of the weights and versions) and summary.md. Both
    sides are rounded to 8 bits; PSNR and SSIM are taken on Y of BT.601 YCbCr without border crop. Nothing is
    downloaded unless --download is given: a metric without its weights is an error that says where to put them.

    Args:
        restored: Folder of restored images; with --checkpoint or --expert, of the low-quality images to restore.
        gt: Folder of ground truth, or of a benchmark in a usual layout (test_LR/test_HR, LR/HR, lq/gt). Names may
            differ by one prefix and suffix per folder, such as Canon_001_LR4.png and realsr_Canon_001_LR4.png.
        metrics: Some of psnr, ssim, lpips_alex (or lpips), lpips_vgg, lpips_squeeze, dists, niqe, musiq, maniqa,
            clipiqa, fid (as in clean-fid), fid_inception, texture_distance, grid_energy (1 unless patches of a codec
            show), lattice_4, lattice_8 (dB by which patterns of that period stand out; ground truth has about 1); or
            all, the columns of the field's tables. By default psnr,ssim, and for a model grid_energy and lattices.
        output: Folder for the results.
        checkpoint: A model to measure: a checkpoint of stage 2, stage 1 or the one-step teacher; or nano, the model
            that comes with this package, which also is measured where RESTORED is not given, or with --expert.
        data: Data configuration whose test set is measured, such as configs/data/realsr.yaml. With RESTORED and
            without --checkpoint, its ground truth is taken.
        controls: Values of t for a model; by default 0,0.5,1, for models without t only 0.
        alphas: Shares of T_f in the blend of the teachers.
        baselines: What a model is compared with: all (bicubic, its teachers, their blend), bicubic, or none.
        expert: Weights of published restoration networks to measure as well, any that spandrel reads: Real-ESRGAN,
            SwinIR, HAT, DAT, SPAN and many more, as .pth or .safetensors; several with commas between.
        seeds: Number of runs with different seeds for a model; from 2 on, G-STD and L-STD are reported.
        weights: Folders with weight files of the metrics, searched before TORCH_HOME; several with commas between.
        download: Fetch missing weights of metrics into TORCH_HOME.
        skip_unavailable: Leave metrics out, by name, whose weights are not on this machine.
        crop_border: Pixels to cut off every side first; published tables of this field cut none.
        grid_factor: Side in pixels of the patches that grid_energy looks for: the codec's factor, 4 for the nano codec,
            8 for Stable Diffusion. By default that of the model; 4 for finished files.
        restored_prefix: What the names in RESTORED start with, where it is not found automatically.
        restored_suffix: What they end with.
        gt_prefix: What the names in GT start with.
        gt_suffix: What they end with.
        limit: Number of images to stop after.
        name: What the results are called, as on the results page; by default the folder or checkpoint.
        tile: Side of a tile in input pixels for a model; by default 768 output pixels, 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type that a model computes in.
        color: Correction of colours by the enlarged input, of the model, its teachers and experts: none, adain or
            wavelet.

    Returns:
        0.
    """
    from ctsr_lightning.metrics.grid import GridEnergy
    from ctsr_lightning.metrics.lattice import lattices
    from ctsr_lightning.metrics.named import metric_names
    from ctsr_lightning.networks.shipped import SHIPPED
    from ctsr_lightning.weights.search import weight_folders

    experts = listed(expert)
    if checkpoint is None and (restored is None or experts):
        checkpoint = SHIPPED
    names = metric_names(metrics if metrics is not None else f"psnr,ssim{f',{GRID}' if checkpoint else ''}")
    if grid_factor is not None and GRID not in names:
        raise ValueError(f"Expected {GRID} among --metrics with --grid-factor, found {', '.join(names)}.")
    _check(restored, gt, checkpoint, data, seeds=seeds, crop_border=crop_border, limit=limit)
    with weight_folders(*listed(weights), download=download):
        chosen, notes = build_metrics(
            names, skip_unavailable=skip_unavailable, grid_factor=grid_factor, border=crop_border
        )
    output = Path(output).expanduser()
    settings: dict[str, Any] = {
        "checkpoint": None,
        "limit": limit,
        "skipped_metrics": [name for name in names if name not in chosen],
    }
    if checkpoint is None:
        title = str(restored)
        rule = _rule(restored_prefix, restored_suffix, gt_prefix, gt_suffix)
        measurements, source, found = _measure_files(
            restored, gt, data, rule, chosen, crop_border, limit, output, device
        )
        settings |= found
        if found["pairing"] != EQUAL:
            notes.append(f"Files were paired by stem; {found['pairing']}.")
        if found["lossy_files"]:
            notes.append(f"{found['lossy_files']} restored files are JPEG or WebP: the figures include its loss.")
    else:
        model = choose_model(checkpoint)
        title = model.name
        restorer = load_restorer(model.path, tile=tile, device=device, precision=precision, color=color)
        if GRID in chosen and grid_factor is None:
            chosen[GRID] = GridEnergy(restorer.student.codec.factor, crop_border)
        if metrics is None:
            chosen |= lattices(restorer.student.codec.factor)
        methods, remarks = build_methods(restorer, model.path, controls, alphas, baselines, experts)
        measurements, source = _measure_model(methods, restored, gt, data, chosen, crop_border, limit, seeds, output)
        notes += remarks
        notes += colour_note(color)
        settings |= {
            "checkpoint": model.name,
            "data": source,
            "tile": restorer.tile,
            "precision": precision,
            "color": color,
            "experts": recorded_files(experts),
            "device": describe_device(restorer.device),
        }
    notes += caveats(measurements)
    identity = {
        "name": name or title,
        "benchmark": None if data is None else Path(data).stem,
        "source": source,
    }
    print(_write(output, measurements, identity, settings, notes))
    return 0


def _check(
    restored: str | Path | None,
    gt: str | Path | None,
    checkpoint: str | Path | None,
    data: str | Path | None,
    *,
    seeds: int,
    crop_border: int,
    limit: int | None,
) -> None:
    """Refuse options that do not go together, before anything is loaded."""
    if checkpoint is None and (gt is None) == (data is None):
        raise ValueError(
            "Expected a folder of restored images and one of ground truth (ctsr evaluate RESTORED GT, or RESTORED "
            f"--data FILE), or a model (--checkpoint FILE); found restored={restored}, gt={gt}, data={data}."
        )
    if checkpoint is not None and ((restored is None) != (gt is None) or (gt is not None and data is not None)):
        raise ValueError(
            "Expected with --checkpoint either two folders (ctsr evaluate LQ GT --checkpoint FILE), or --data FILE, or "
            f"neither for the built-in photos; found lq={restored}, gt={gt}, data={data}."
        )
    if seeds < 1 or (seeds > 1 and checkpoint is None):
        raise ValueError(
            f"Expected --seeds of at least 1, and more than 1 only with --checkpoint (finished files do not change "
            f"with a seed); found {seeds}."
        )
    if crop_border < 0:
        raise ValueError(f"Expected --crop-border of at least 0 pixels, found {crop_border}.")
    if limit is not None and limit < 1:
        raise ValueError(f"Expected --limit of at least 1, found {limit}.")


def _ground_truth(data: str | Path | None) -> tuple[Path, int | None]:
    """The folder of ground truth of a data configuration with one folder of test pairs, and the number of pairs."""
    assert data is not None
    pairs = load_data(data).pair_folders["test"]
    if len(pairs) != 1:
        raise ValueError(f"Expected one folder of test pairs in '{data}', found {len(pairs)}. Name GT instead.")
    _, gt = pairs[0].folders()
    return gt, pairs[0].count


def _rule(restored_prefix: str, restored_suffix: str, gt_prefix: str, gt_suffix: str) -> "Affixes | None":
    """The rule for names that the options give, or None to search for one."""
    from ctsr_lightning.data.pairing.matching import Affix, Affixes

    if not (restored_prefix or restored_suffix or gt_prefix or gt_suffix):
        return None
    return Affixes(Affix(restored_prefix, restored_suffix), Affix(gt_prefix, gt_suffix))


def _measure_files(
    restored: str | Path | None,
    gt: str | Path | None,
    data: str | Path | None,
    rule: "Affixes | None",
    metrics: Mapping[str, Any],
    border: int,
    limit: int | None,
    output: Path,
    device: str,
) -> tuple["Measurements", str, dict[str, Any]]:
    """Measure finished files: the measurements, where they are from, and how the files were paired."""
    from ctsr_lightning.data.files import ImageCache
    from ctsr_lightning.data.pairing.layouts import gt_folder
    from ctsr_lightning.data.pairing.matching import match_files
    from ctsr_lightning.evaluation import folders
    from ctsr_lightning.evaluation.measurements import Measurements
    from ctsr_lightning.inference.restorer import pick_device

    assert restored is not None
    first = Path(restored).expanduser()
    second, count = (gt_folder(gt), None) if gt is not None else _ground_truth(data)
    matched = match_files(first, second, rule, remedy=REMEDY)
    if count not in {None, len(matched.pairs)}:
        raise ValueError(f"Expected {count} pairs, as '{data}' says, found {len(matched.pairs)} in '{second}'.")
    jobs = [(path.relative_to(first).as_posix(), path, truth) for path, truth in matched.pairs.values()][:limit]
    cache = ImageCache(2**29)
    measurements = Measurements(metrics, pick_device(device), border)
    with progress() as bar, save_partial_on_error(output, measurements):
        folders.check(bar.track([(a, b) for _, a, b in jobs], description="checking"), cache)
        folders.measure(bar.track(jobs, description="measuring"), cache, measurements)
    names = matched.rule.describe("restored names", "ground-truth names")
    jpegs = sum(path.suffix.lower() in LOSSY for _, path, _ in jobs)
    found = {
        "device": describe_device(measurements.device),
        "restored": str(first),
        "gt": str(second),
        "pairing": names or EQUAL,
        "lossy_files": jpegs,
    }
    return measurements, f"{first} against {second}", found


def _measure_model(
    methods: "Methods",
    lq: str | Path | None,
    gt: str | Path | None,
    data: str | Path | None,
    metrics: Mapping[str, Any],
    border: int,
    limit: int | None,
    seeds: int,
    output: Path,
) -> tuple["Measurements", str]:
    """Restore a data set and measure it: the measurements, and where the images are from."""
    from ctsr_lightning.evaluation.measurements import Measurements, load_batches, measure_methods

    module, source = benchmark_data(methods.restorer.scale, lq, gt, data)
    batches, total = load_batches(module, limit)
    measurements = Measurements(metrics, methods.restorer.device, border, seeds)
    with progress() as bar, save_partial_on_error(output, measurements):
        measure_methods(methods, bar.track(batches, total=total, description="measuring"), measurements)
    return measurements, source


def _write(
    output: Path,
    measurements: "Measurements",
    identity: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """Write the three files; the text for the terminal."""
    from ctsr_lightning.evaluation import report

    output.mkdir(parents=True, exist_ok=True)
    report.write_per_image(output / PER_IMAGE, measurements)
    report.write_json(output / SUMMARY, report.record(measurements, identity, settings))
    text = report.markdown(measurements, identity["source"], notes)
    (output / TABLE).write_text(text, encoding="utf-8")
    return f"{text}\n→ {output}/{PER_IMAGE}, {SUMMARY}, {TABLE}"
