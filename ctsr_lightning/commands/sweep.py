"""`ctsr sweep`: the trade-off of a model, measured."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from pathlib import Path
from typing import Any, Literal

from ctsr_lightning.commands.options import choose_model, listed, load_restorer
from ctsr_lightning.evaluation.labels import GRID
from ctsr_lightning.evaluation.setup import (
    Baselines,
    benchmark_data,
    build_methods,
    build_metrics,
    caveats,
    colour_note,
    recorded_files,
    save_partial_on_error,
)
from ctsr_lightning.inference.devices import describe_device
from ctsr_lightning.inference.settings import Color, Precision
from ctsr_lightning.progress import progress


def sweep(
    checkpoint: str | Path | None = None,
    gt: str | Path | None = None,
    lq: str | Path | None = None,
    data: str | Path | None = None,
    output: str | Path = "runs/sweep",
    controls: float | list[float] | str = "0,0.2,0.4,0.6,0.8,1",
    alphas: float | list[float] | str = "0.2,0.4,0.6,0.8",
    baselines: Baselines = "all",
    expert: str | list[str] | None = None,
    degradation: Literal["realesrgan", "light"] = "realesrgan",
    seed: int = 0,
    crop: int | None = None,
    repeats: int = 1,
    limit: int | None = None,
    lpips: Literal["squeeze", "alex", "vgg"] = "squeeze",
    metrics: str = "",
    grid_factor: int | None = None,
    examples: int = 3,
    weights: str | list[str] | None = None,
    name: str | None = None,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    color: Color = "none",
) -> int:
    """Measure the trade-off between realness and fidelity over values of t: table, plots and data.

    Restores pairs (--lq and --gt, or --data), photos degraded in a fixed way (--gt alone), or the built-in photos, and
    writes tradeoff.csv, per_image.csv, tradeoff.md, tradeoff.png, tradeoff.html (interactive), tradeoff.json, and
    examples.png with some images side by side. Beside the model's curve over t stand bicubic enlargement, the
    teachers, and the blend α T_f + (1 - α) T_r of their images; the report says whether the curve is monotone, whether
    it dominates the blend, and whether at any t the codec's grid of patches or a lattice shows. Every image takes one
    pass of the model and one decode per value of t.

    Example:
        ctsr sweep --checkpoint runs/stage2/last.ckpt --gt photos/ --output runs/sweep

    Args:
        checkpoint: A checkpoint of stage 2; also of stage 1 or the one-step teacher, with --controls 0. Without it,
            nano, the model that comes with this package.
        gt: Folder of ground truth. Without it, the held-out photos that come with scikit-image.
        lq: Folder of the low-quality images that belong to it, matched by stem. Without it, ground truth is degraded.
        data: Data configuration whose test set is measured, such as configs/data/realsr.yaml, in place of --gt, --lq.
        output: Folder for the results.
        controls: Values of t, such as 0,0.5,1.
        alphas: Shares of T_f in the blend of the teachers; the teachers themselves are its ends.
        baselines: What the model is compared with: all (bicubic, its teachers, their blend), bicubic, or none.
        expert: Weights of published restoration networks to measure as well, any that spandrel reads: Real-ESRGAN,
            SwinIR, HAT, DAT, SPAN and many more, as .pth or .safetensors; several with commas between.
        degradation: How ground truth is degraded where there are no low-quality images.
        seed: Seed of the degradation.
        crop: Side of a central crop of the ground truth in pixels; whole images by default.
        repeats: Crops, each degraded in its own way, per image; more than one needs --crop.
        limit: Number of images to stop after.
        lpips: Backbone of LPIPS, if its weights are on disk; if not, texture_distance takes its place and is named so.
        metrics: Further metrics, such as niqe,dists: see ctsr evaluate --help.
        grid_factor: Side in pixels of the patches that grid_energy looks for; by default the factor of the codec.
        examples: Number of images in examples.png, evenly spread over all, 0 for no such picture.
        weights: Folders with weight files of the metrics, searched before TORCH_HOME; several with commas between.
        name: What the results are called, as on the results page; by default the model.
        tile: Side of a tile in input pixels, for images that do not fit into memory at once. By default 768 output
            pixels; 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type to compute in.
        color: Correction of colours by the enlarged input, of the model, its teachers and experts: none, adain or
            wavelet.

    Returns:
        0.
    """
    _check_options(gt, lq, data, crop, repeats, limit, examples)
    model = choose_model(checkpoint)
    restorer = load_restorer(model.path, tile=tile, device=device, precision=precision, color=color)

    from ctsr_lightning.evaluation.measurements import Measurements, load_batches, measure_methods
    from ctsr_lightning.evaluation.pictures import Examples
    from ctsr_lightning.evaluation.tradeoff_report import write_report
    from ctsr_lightning.metrics.grid import GridEnergy
    from ctsr_lightning.metrics.lattice import lattices
    from ctsr_lightning.metrics.named import metric_names
    from ctsr_lightning.metrics.perceptual import LPIPS, PerceptualMetric, perceptual_distance
    from ctsr_lightning.weights.search import weight_search_path

    experts = listed(expert)
    methods, notes = build_methods(restorer, model.path, controls, alphas, baselines, experts)
    with weight_search_path(*listed(weights)):
        distance = perceptual_distance(lpips)
        patterns = lattices(restorer.student.codec.factor)
        own = {distance.name, GRID, *patterns}
        further = [name for name in metric_names(f"psnr,ssim {metrics}") if name not in own]
        chosen, _ = build_metrics(further, skip_unavailable=False)
    grid = GridEnergy(restorer.student.codec.factor if grid_factor is None else grid_factor)
    chosen = {**chosen, distance.name: PerceptualMetric(distance), GRID: grid, **patterns}
    module, source = benchmark_data(restorer.scale, lq, gt, data, degradation, seed, crop, repeats)
    batches, total = load_batches(module, limit)
    measurements = Measurements(chosen, restorer.device)
    output = Path(output).expanduser()
    shown = Examples(examples, every=max(1, total // max(1, examples)))
    with progress() as bar, save_partial_on_error(output, measurements):
        measure_methods(methods, bar.track(batches, total=total, description="measuring"), measurements, shown)
    settings: dict[str, Any] = {
        "checkpoint": model.name,
        "data": source,
        "crop": crop,
        "repeats": repeats,
        "tile": restorer.tile,
        "device": describe_device(restorer.device),
        "precision": precision,
        "color": color,
        "experts": recorded_files(experts),
        "scale": restorer.scale,
        "controls": methods.controls,
        "perceptual": distance.name,
        "perceptual_is_lpips": isinstance(distance, LPIPS),
    }
    notes += colour_note(color) + caveats(measurements)
    identity = {
        "name": name or model.name,
        "benchmark": None if data is None else Path(data).stem,
        "source": source,
    }
    print(write_report(output, measurements, distance.name, identity, settings, notes))
    if shown.write(output / "examples.png"):
        print(f"→ {output / 'examples.png'}")
    return 0


def _check_options(
    gt: str | Path | None,
    lq: str | Path | None,
    data: str | Path | None,
    crop: int | None,
    repeats: int,
    limit: int | None,
    examples: int,
) -> None:
    if data and (gt or lq):
        raise ValueError(f"Expected --data or --gt and --lq, not both; found data={data}, gt={gt}, lq={lq}.")
    if lq and not gt:
        raise ValueError(f"Expected the ground truth of '{lq}' as well: --gt FOLDER with the same file stems.")
    if repeats > 1 and crop is None:
        raise ValueError("Expected --crop with --repeats: a whole image has no second crop.")
    if limit is not None and limit < 1:
        raise ValueError(f"Expected --limit of at least 1, got {limit}.")
    if examples < 0:
        raise ValueError(f"Expected --examples of at least 0, got {examples}.")
