"""`ctsr sweep`: the trade-off of a model, measured."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import json
from pathlib import Path
from typing import Literal

from ctsr_lightning.commands.options import listed, load_restorer
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.evaluation.setup import Baselines
from ctsr_lightning.inference.settings import Color, Precision, Space
from ctsr_lightning.share import own_device, own_share


def sweep(
    checkpoint: str | Path | None = None,
    gt: str | Path | None = None,
    lq: str | Path | None = None,
    data: str | Path | None = None,
    output: str | Path = "runs/sweep",
    control: float | list[float] | str = "0,0.2,0.4,0.6,0.8,1",
    alphas: float | list[float] | str = "0.2,0.4,0.6,0.8",
    baselines: Baselines = "all",
    expert: str | list[str] | None = None,
    rivals: str | list[str] | None = None,
    rival_seeds: int = 3,
    steps: int | list[int] | str | None = None,
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
    rank: int | None = None,
    ranks: int | None = None,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    color: Color = "none",
    prompt: str | None = None,
    space: Space = "latent",
) -> int:
    """Measure the trade-off between realness and fidelity over values of t: table, plots and data.

    Restores pairs (--lq and --gt, or --data), photos degraded in a fixed way (--gt alone), or the built-in photos, and
    writes tradeoff.csv, .md, .png, .html (interactive), .json, per_image.csv and examples.png. Beside the curve over t
    stand bicubic enlargement, the teachers, and the blend α T_f + (1 - α) T_r of their images; the report says whether
    the curve is monotone, whether it dominates the blend, and whether patches or lattices of the codec show.

    Rivals are further trained models: with a slider, each is measured at the same t and has a curve of its own. Beside
    rivals, every model is compared with the blend of its own images at t = 0 and t = 1 as well, and `further` is what
    each further t costs: CTSR two passes and then a decode per t, others a pass per t.

    An interrupted sweep goes on where it stopped, from OUTPUT/unfinished.

    Example:
        ctsr sweep --checkpoint runs/stage2/last.ckpt --gt photos/ --output runs/sweep
        ctsr sweep --gt photos/ --rivals OFTSR=runs/oftsr/last.ckpt,flow=runs/flow/last.ckpt --steps 1,2,4,8
        ctsr sweep --gt photos/ --rivals AddSR=runs/addsr/last.ckpt --steps 1,2,3,4

    Args:
        checkpoint: A checkpoint of stage 2 (of stage 1 with --control 0), a folder or a hub id; by default nano, the
            model that comes with this package.
        gt: Folder of ground truth; by default the held-out photos of scikit-image.
        lq: Folder of its low-quality images, matched by stem; by default ground truth is degraded.
        data: Data configuration whose test set is measured, such as data/realsr.yaml.
        output: Folder for the results.
        control: Values of t, such as 0,0.5,1.
        alphas: Shares of T_f in the blend; the teachers themselves are its ends. Beside rivals also shares of t = 1.
        baselines: all (bicubic, the model's teachers, their blend), bicubic, or none.
        expert: Weights of published networks to measure as well, any that spandrel reads; several with commas between.
        rivals: NAME=WEIGHTS of further models, checkpoints, folders or hub ids as in --checkpoint, several with commas
            between; NAME is that of a curve. The model's own is that of --name, by default its
            method's.
        rival_seeds: Runs of each rival with different seeds; figures are means over them, L-STD and G-STD what they
            differ by, 0 for a rival that draws nothing.
        steps: Numbers of steps, such as 1,2,4, at which rivals that have a choice are measured, beside t where they
            have a slider: flows in so many steps, students of a few steps in the first so many of their timesteps.
        degradation: Degradation of ground truth without low-quality images.
        seed: Seed of the degradation.
        crop: Side of a central crop of the ground truth in pixels; whole images by default.
        repeats: Crops, each degraded in its own way, per image; more than one needs --crop.
        limit: Number of images to stop after.
        lpips: Backbone of LPIPS; without its weights texture_distance takes its place and is named so.
        metrics: Further metrics, such as niqe,dists: see ctsr evaluate --help.
        grid_factor: Side in pixels of the patches that grid_energy looks for; by default the codec's factor.
        examples: Number of images in examples.png, evenly spread; 0 for no such picture.
        weights: Folders with weight files of metrics, searched before TORCH_HOME.
        name: Name of the results, and of the model's curve; by default the model, and its method, such as
            CTSR.
        rank: Which part of the images this process measures, from 0; by default what torchrun or SLURM say, else all.
        ranks: Number of parts; the process that measures the last image writes the report, see ctsr evaluate --help.
        tile: Side of a tile in input pixels; by default 768 output pixels, 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps; auto gives each process of torchrun or SLURM a GPU of its own.
        precision: Type to compute in.
        color: Correction of colours by the enlarged input: none, adain or wavelet.
        prompt: Text for every image in place of the model's own prompt, or a file (.json, .tsv, .txt) with one for each
            image, as ctsr tag writes it. For models, rivals and teachers that were trained with texts.
        space: Where t acts. latent: z(t) is decoded for each t. image: t mixes the decoded images of t = 0 and t = 1.

    Returns:
        0.
    """
    _check_options(gt, lq, data, crop, repeats, limit, examples)
    named, numbers = _named(listed(rivals)), _whole_numbers(steps)
    share = own_share(rank, ranks)
    model = load_restorer(
        checkpoint, tile=tile, device=own_device(device), precision=precision, color=color, prompt=prompt, space=space
    )

    from ctsr_lightning.evaluation.evaluate import evaluate_model
    from ctsr_lightning.evaluation.pictures import Examples
    from ctsr_lightning.evaluation.tradeoff_report import write_report

    output = Path(output).expanduser()
    shown = Examples(examples)
    report = evaluate_model(
        model,
        lq,
        gt,
        f"psnr,ssim {metrics}",
        data=data,
        t=control,
        alphas=alphas,
        baselines=baselines,
        experts=listed(expert),
        rivals=named,
        steps=numbers,
        rival_seeds=rival_seeds,
        degradation=degradation,
        seed=seed,
        crop=crop,
        repeats=repeats,
        patterns=True,
        perceptual=lpips,
        grid_factor=grid_factor,
        limit=limit,
        weights=listed(weights),
        examples=shown,
        name=name,
        output=output,
        share=share,
    )
    if text := report.unfinished():
        tell(text)
        result(output=output, complete=False)
        return 0
    tell(write_report(output, report, report.settings["perceptual"]))
    if shown.write(output / "examples.png"):
        tell(f"→ {output / 'examples.png'}")
    report.complete()
    result(output=output, complete=True, **json.loads((output / "tradeoff.json").read_text(encoding="utf-8")))
    return 0


def _named(rivals: list[str]) -> dict[str, str]:
    """Rivals by name."""
    found: dict[str, str] = {}
    for word in rivals:
        name, _, weights = (part.strip() for part in word.partition("="))
        if not name or not weights:
            raise ValueError(f"Expected --rivals NAME=WEIGHTS, several with commas between, found '{word}'.")
        if name in found:
            raise ValueError(f"Expected a name of its own for each of --rivals, found '{name}' twice. Rename one.")
        found[name] = weights
    return found


def _whole_numbers(steps: int | list[int] | str | None) -> list[int]:
    """Numbers of steps, repeated ones once."""
    several = [] if steps is None else [steps] if isinstance(steps, int) else steps
    words = several.replace(",", " ").split() if isinstance(several, str) else several
    try:
        return list(dict.fromkeys(int(word) for word in words))
    except ValueError as error:
        raise ValueError(f"Expected numbers of steps such as 1,2,4,8 for --steps, found '{steps}'.") from error


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
        raise ValueError(f"Expected --limit of at least 1, found {limit}.")
    if examples < 0:
        raise ValueError(f"Expected --examples of at least 0, found {examples}.")
