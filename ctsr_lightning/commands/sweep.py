"""`ctsr sweep`: the trade-off of a model, measured."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctsr_lightning.commands.options import Precision, load_restorer, parse_controls, progress
from ctsr_lightning.commands.tradeoff_report import BICUBIC, Row, Table, write_report

if TYPE_CHECKING:
    from torch import Tensor

    from ctsr_lightning.batch import Batch
    from ctsr_lightning.inference.restorer import Restorer
    from ctsr_lightning.metrics.base import ImageMean


def sweep(
    checkpoint: str | Path | None = None,
    gt: str | Path | None = None,
    lq: str | Path | None = None,
    output: str | Path = "runs/sweep",
    controls: float | list[float] | str = "0,0.2,0.4,0.6,0.8,1",
    degradation: Literal["realesrgan", "light"] = "realesrgan",
    seed: int = 0,
    crop: int | None = None,
    repeats: int = 1,
    limit: int | None = None,
    lpips: Literal["squeeze", "alex", "vgg"] = "squeeze",
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
) -> int:
    """Measure the trade-off between realness and fidelity over values of t: table, plot and data.

    Restores pairs (--lq and --gt), photos degraded in a fixed way (--gt alone), or the built-in photos (neither), and
    writes tradeoff.csv, per_image.csv, tradeoff.md, tradeoff.png and tradeoff.json. Every image takes one pass of the
    networks and one decode per value of t.

    Example:
        ctsr sweep --checkpoint runs/stage2/last.ckpt --gt photos/ --output runs/sweep

    Args:
        checkpoint: A checkpoint of stage 2; also of stage 1 or the one-step teacher, with --controls 0.
        gt: Folder of ground truth. Without it, the held-out photos that come with scikit-image.
        lq: Folder of the low-quality images that belong to it, matched by stem. Without it, ground truth is degraded.
        output: Folder for the results.
        controls: Values of t, such as 0,0.5,1.
        degradation: How ground truth is degraded where there are no low-quality images.
        seed: Seed of the degradation.
        crop: Side of a central crop of the ground truth in pixels; whole images by default.
        repeats: Crops, each degraded in its own way, per image; more than one needs --crop.
        limit: Number of images to stop after.
        lpips: Backbone of LPIPS, if its weights are on disk; if not, texture_distance takes its place and is named so.
        tile: Side of a tile in input pixels, for images that do not fit into memory at once. By default 768 output
            pixels; 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type to compute in.

    Returns:
        0.
    """
    values = parse_controls(controls)
    _check_options(gt, lq, crop, repeats, limit)
    restorer = load_restorer(checkpoint, tile=tile, device=device, precision=precision)
    for value in values:
        restorer.check_control(value)

    from ctsr_lightning.metrics.distortion import PSNRY, SSIMY
    from ctsr_lightning.metrics.perceptual import LPIPS, PerceptualMetric, perceptual_distance

    distance = perceptual_distance(lpips)
    is_lpips = isinstance(distance, LPIPS)
    metrics: dict[str, ImageMean] = {"psnr_y": PSNRY(), "ssim_y": SSIMY(), distance.name: PerceptualMetric(distance)}
    metrics = {name: metric.to(restorer.device) for name, metric in metrics.items()}
    batches, total = load_batches(restorer.scale, gt, lq, degradation, seed, crop, repeats, limit)
    table = Table({name: bool(metric.higher_is_better) for name, metric in metrics.items()}, perceptual=distance.name)
    with progress() as bar:
        for batch in bar.track(batches, total=total, description="measuring"):
            table.rows += measure(batch, restorer, values, metrics)
    settings = {
        "checkpoint": str(checkpoint),
        "gt": str(gt) if gt else "photos of scikit-image",
        "lq": str(lq) if lq else f"{degradation}, seed {seed}",
        "crop": crop,
        "repeats": repeats,
        "tile": restorer.tile,
        "device": str(restorer.device),
        "precision": precision,
        "scale": restorer.scale,
        "controls": values,
        "perceptual_is_lpips": is_lpips,
    }
    print(write_report(Path(output).expanduser(), table, settings))
    return 0


def _check_options(
    gt: str | Path | None, lq: str | Path | None, crop: int | None, repeats: int, limit: int | None
) -> None:
    if lq and not gt:
        raise ValueError(f"Expected the ground truth of '{lq}' as well: --gt FOLDER with the same file stems.")
    if repeats > 1 and crop is None:
        raise ValueError("Expected --crop with --repeats: a whole image has no second crop.")
    if limit is not None and limit < 1:
        raise ValueError(f"Expected --limit of at least 1, got {limit}.")


def load_batches(
    scale: int,
    gt: str | Path | None,
    lq: str | Path | None,
    degradation: Literal["realesrgan", "light"],
    seed: int,
    crop: int | None,
    repeats: int,
    limit: int | None,
) -> tuple[Iterator["Batch"], int]:
    """The images to measure, one by one, and how many there are; arguments as in `sweep`.

    Args:
        scale: The model's enlargement.
        gt: Folder of ground truth, or None for the built-in photos.
        lq: Folder of low-quality images, or None to make them.
        degradation: How they are made.
        seed: Seed of that.
        crop: Side of a central crop.
        repeats: Crops per image.
        limit: Number of images.
    """
    from ctsr_lightning import data

    degrade = data.light() if degradation == "light" else data.realesrgan()
    module = data.RealESRGANDataModule(
        test=[gt] if gt and not lq else None,
        test_pairs=[data.PairFolder(lq, gt)] if gt and lq else None,
        scale=scale,
        crop=64 * scale,  # of training, which does not happen here
        val_crop=crop,
        val_repeats=repeats,
        num_workers=0,
        degradation=degrade,
        seed=seed,
    )
    module.setup("test")
    loader = module.test_dataloader()
    total = min(len(loader), limit or len(loader))
    return (batch for _, batch in zip(range(total), loader, strict=False)), total


def measure(
    batch: "Batch", restorer: "Restorer", controls: list[float], metrics: Mapping[str, "ImageMean"]
) -> list[Row]:
    """Restore one image at every t and measure the results and the bicubic enlargement.

    Args:
        batch: One image with its ground truth.
        restorer: The model.
        controls: Values of t.
        metrics: Metrics by name.
    """
    from ctsr_lightning.callbacks.passes import enlarge
    from ctsr_lightning.images import quantize
    from ctsr_lightning.metrics.plots import control_label

    assert batch.gt is not None
    gt, lq, key = batch.gt.to(restorer.device), batch.lq.to(restorer.device), batch.key[0]

    def judged(image: "Tensor") -> dict[str, float]:
        return {name: float(metric.values(quantize(image), gt)) for name, metric in metrics.items()}

    rows = [Row(key, BICUBIC, None, judged(enlarge(lq, gt)), 0.0)]
    start = time.perf_counter()
    trajectory = restorer.trajectory(lq)
    shared = (time.perf_counter() - start) / len(controls)
    for control in controls:
        start = time.perf_counter()
        image = restorer.decode(trajectory, control)
        seconds = shared + time.perf_counter() - start
        rows.append(Row(key, control_label(control), control, judged(image), seconds))
    return rows
