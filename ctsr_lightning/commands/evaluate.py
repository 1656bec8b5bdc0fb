"""`ctsr evaluate`: restored images, or a model, against ground truth."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsr_lightning.commands.options import listed, load_restorer
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.evaluation.labels import GRID, PER_IMAGE
from ctsr_lightning.evaluation.setup import Baselines
from ctsr_lightning.inference.settings import Color, Precision, Space
from ctsr_lightning.share import own_device, own_share

if TYPE_CHECKING:
    from ctsr_lightning.data.pairing.matching import Affixes


def evaluate(
    restored: str | Path | None = None,
    gt: str | Path | None = None,
    /,
    metrics: str | None = None,
    output: str | Path = "runs/evaluate",
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    control: float | list[float] | str | None = None,
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
    examples: int = 0,
    name: str | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    color: Color = "none",
    prompt: str | None = None,
    space: Space = "latent",
) -> int:
    """Measure restored images, or a model on a data set, against ground truth by the field's published protocol.

    A folder against a folder, paired by file stem:
        ctsr evaluate RESTORED GT --metrics psnr,ssim,niqe --output runs/evaluate
    A model, with its teachers, their blend and bicubic enlargement in the same table, and published networks beside it:
        ctsr evaluate LQ GT --checkpoint runs/stage2/last.ckpt --expert RealESRGAN_x4plus.pth
        ctsr evaluate --checkpoint runs/stage2/last.ckpt --data data/realsr.yaml

    Writes per_image.csv, summary.json (protocol, hashes, versions) and summary.md. Both sides are rounded to 8 bits;
    PSNR and SSIM are taken on Y of BT.601, psnr_rgb on RGB. Nothing is downloaded without --download.

    What was measured of an image is kept in OUTPUT/unfinished at once: an interrupted command goes on where it stopped.
    Several processes share the images, and the one that measures the last writes the report of all:
        torchrun --nproc-per-node gpu -m ctsr_lightning.cli evaluate LQ GT --checkpoint runs/stage2/last.ckpt
        ctsr evaluate LQ GT --checkpoint runs/stage2/last.ckpt --rank 0 --ranks 2    (and --rank 1, with one OUTPUT)

    Args:
        restored: Folder of restored images; of low-quality images with --checkpoint or --expert.
        gt: Folder of ground truth, or of a benchmark in a usual layout (test_LR/test_HR, LR/HR, lq/gt).
        metrics: Some of psnr, ssim, lpips (alex; lpips_vgg, lpips_squeeze), dists, niqe, musiq, maniqa, clipiqa, fid,
            fid_inception, texture_distance, grid_energy, lattice_4, lattice_8, psnr_rgb, psnr_rgb_gtmean (at the ground
            truth's brightness); or all, the columns of the field's tables. By default psnr,ssim, and of a model
            grid_energy and lattices.
        output: Folder for the results.
        checkpoint: Model to measure: a checkpoint, a folder, a hub id, or nano, which is also the default without
            RESTORED or with --expert.
        data: Data configuration whose test set is measured, such as data/realsr.yaml.
        control: Values of t, such as 0,0.5,1.
        alphas: Shares of T_f in the blend of the teachers.
        baselines: all (bicubic, at scale 1 the input; the model's teachers, their blend), bicubic, or none.
        expert: Weights of published networks to measure as well, any that spandrel reads; several with commas between.
        seeds: Runs of a model with different seeds; from 2 on, G-STD and L-STD are reported.
        weights: Folders with weight files of metrics, searched before TORCH_HOME.
        download: Fetch missing weights of metrics into TORCH_HOME.
        skip_unavailable: Leave out metrics whose weights are not on this machine.
        crop_border: Pixels to cut off every side first.
        grid_factor: Side in pixels of the patches that grid_energy looks for; by default the codec's factor, or 4.
        restored_prefix: Prefix of the names in RESTORED, where it is not found automatically.
        restored_suffix: Suffix of these names.
        gt_prefix: Prefix of the names in GT.
        gt_suffix: Suffix of these names.
        limit: Number of images to stop after.
        examples: Number of images to show as every method of a model's table restores them, in examples.png.
        name: Name of the results; by default the folder or model.
        rank: Which part this process measures, from 0; by default what torchrun or SLURM say, else everything.
        ranks: Number of parts.
        tile: Side of a tile in input pixels; by default 768 output pixels, 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps; auto gives each process of torchrun or SLURM a GPU of its own.
        precision: Type that a model computes in.
        color: Correction of colours by the enlarged input: none, adain or wavelet.
        prompt: Text for every image in place of the model's own prompt, or a file (.json, .tsv, .txt) with one for each
            image, as ctsr tag writes it. For models, and teachers, that were trained with texts.
        space: Where t acts. latent: z(t) is decoded for each t. image: t mixes the decoded images of t = 0 and t = 1.

    Returns:
        0.
    """
    from ctsr_lightning.evaluation.evaluate import evaluate_folder, evaluate_model
    from ctsr_lightning.evaluation.pictures import Examples
    from ctsr_lightning.evaluation.report import SUMMARY, TABLE
    from ctsr_lightning.metrics.named import metric_names
    from ctsr_lightning.weights.shipped import SHIPPED

    experts = listed(expert)
    if checkpoint is None and (restored is None or experts):
        checkpoint = SHIPPED
    if grid_factor is not None and (metrics is not None or checkpoint is None):
        names = metric_names(metrics or "psnr,ssim")
        if GRID not in names:
            raise ValueError(f"Expected {GRID} among --metrics with --grid-factor, found {', '.join(names)}.")
    _check(restored, gt, checkpoint, data, seeds=seeds, crop_border=crop_border, limit=limit, examples=examples)
    shown = Examples(examples) if examples else None
    if prompt is not None and checkpoint is None:
        raise ValueError(
            f"Expected --prompt with --checkpoint alone (finished files have no prompt), found '{prompt}'."
        )
    shared: dict[str, Any] = {
        "data": data,
        "crop_border": crop_border,
        "grid_factor": grid_factor,
        "limit": limit,
        "weights": listed(weights),
        "download": download,
        "skip_unavailable": skip_unavailable,
        "name": name,
        "output": output,
        "share": own_share(rank, ranks),
    }
    if checkpoint is None:
        assert restored is not None
        rule = _rule(restored_prefix, restored_suffix, gt_prefix, gt_suffix)
        report = evaluate_folder(restored, gt, metrics or "psnr,ssim", names=rule, device=own_device(device), **shared)
    else:
        model = load_restorer(
            checkpoint,
            tile=tile,
            device=own_device(device),
            precision=precision,
            color=color,
            prompt=prompt,
            space=space,
        )
        report = evaluate_model(
            model,
            restored,
            gt,
            metrics,
            t=control,
            alphas=alphas,
            baselines=baselines,
            experts=experts,
            seeds=seeds,
            examples=shown,
            **shared,
        )
    if text := report.unfinished():
        tell(text)
        result(output=output, complete=False)
        return 0
    folder = report.save(output)
    tell(f"{report.to_markdown()}\n→ {folder}/{PER_IMAGE}, {SUMMARY}, {TABLE}")
    if shown is not None and shown.write(folder / "examples.png"):
        tell(f"→ {folder / 'examples.png'}")
    result(output=folder, complete=True, **report.as_dict())
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
    examples: int,
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
    if examples < 0 or (examples and checkpoint is None):
        raise ValueError(f"Expected --examples of at least 0, and of a model (--checkpoint) alone, found {examples}.")


def _rule(restored_prefix: str, restored_suffix: str, gt_prefix: str, gt_suffix: str) -> "Affixes | None":
    """The rule for names that the options give, or None to search for one."""
    from ctsr_lightning.data.pairing.matching import Affix, Affixes

    if not (restored_prefix or restored_suffix or gt_prefix or gt_suffix):
        return None
    return Affixes(Affix(restored_prefix, restored_suffix), Affix(gt_prefix, gt_suffix))
