"""`make nano`: the small model at full length, from photographs to the files that come with the package."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ctsr_lightning.commands.options import listed
from ctsr_lightning.inference.devices import torch_device
from ctsr_lightning.inference.settings import TrainingPrecision
from recipes.chain import (
    CHAIN,
    WEIGHTS,
    Length,
    announce,
    check_configurations,
    configured_steps,
    data_options,
    find_photographs,
    remember_photographs,
    train_link,
)

if TYPE_CHECKING:
    from recipes.nano.pack import Part

TAUGHT = "realness_teacher"
"""The training that may learn from an expert."""
VALIDATIONS = 5
"""Validations of each training."""
ROUNDING_CROPS = 4
"""Crops on which the effect of rounding the weights is measured."""


def nano(
    output: str | Path = "runs/nano",
    photos: str | Path | None = None,
    val: str | Path | None = None,
    test: str | list[str] | None = None,
    expert: str | Path | None = None,
    pack: str | Path | None = None,
    steps: float = 1.0,
    pool: int | None = 4000,
    configs: str | Path = "configs/nano",
    device: str = "auto",
    precision: TrainingPrecision = "auto",
    metrics: str = "",
    weights: str | list[str] | None = None,
) -> int:
    """Train the nano model at full length, stage by stage, pack its weights and measure them.

    Takes many hours of a CPU core, less on a GPU. Finished trainings are kept: the same command after Ctrl-C
    goes on where it stopped. Afterwards OUTPUT/package holds the weights in float16 with a model card (README.md,
    card.json), at most 36 MB; `ctsr upscale PHOTOS OUT --checkpoint OUTPUT/package/stage2/weights.safetensors` uses
    them. A package at ctsr_lightning/assets/nano is what every command takes when no model is named.

    Example:
        python -m recipes nano --photos photos/ --val more_photos/ --test kodak/,realsr/

    Args:
        output: Folder for everything that is made.
        photos: Folder of photographs to train on. Without it, the few that come with scikit-image.
        val: Folder of photographs to validate on. Without it, some of those to train on are held out.
        test: What to measure the packed model on, each by ctsr sweep, several with commas between: folders of
            photographs, which are degraded by a fixed seed; folders of pairs in a usual layout (lq and gt, LR and HR,
            test_LR and test_HR); data configurations such as configs/data/realsr.yaml.
        expert: Weights of a published restoration network for x4, such as Real-ESRGAN's: T_r learns its pictures of the
            training crops, which are made once and kept in OUTPUT/expert (about half a second each on one core).
            Without it T_r learns from ground truth.
        pack: Folder for the packed weights, by default OUTPUT/package.
        steps: Factor on the length of every training, which the configurations have: 0.1 takes a tenth of the time.
        pool: Number of distinct training crops, made once per training and kept in memory (0.2 MB each); null makes new
            ones for ever, which takes longer than the networks do on two cores.
        configs: Folder of the nano configurations.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.
        precision: Type that networks compute in while they are trained; weights stay in float32. auto takes bfloat16
            where the device multiplies it natively (a GPU, or a CPU with AVX512-BF16 or AMX), as it is faster there
            and slower elsewhere. The autoencoder is trained in float32 in any case, and measured are all in float32.
        metrics: Further metrics for the sweeps, such as niqe: see ctsr evaluate --help.
        weights: Folders with weight files of the metrics, searched before TORCH_HOME; several with commas between.

    Returns:
        0.
    """
    from recipes.nano.card import figure
    from recipes.nano.pack import pack as write_package

    output, configs = Path(output).expanduser(), Path(configs).expanduser()
    package = output / "package" if pack is None else Path(pack).expanduser()
    check_configurations(configs)
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, found {steps}.")
    validated = find_photographs(val)
    sets = test_sets(listed(test))
    _check_measurements(sets, metrics, weights)
    if expert is not None:
        expert = Path(expert).expanduser().resolve()
        _check_expert(expert, pool)
    source = find_photographs(photos)
    remember_photographs(output, source)
    options = [*data_options(source, 1, validated), "--data.init_args.pool", "null" if pool is None else str(pool)]
    seconds, parts = 0.0, len(CHAIN) + 1
    for number, link in enumerate(CHAIN, start=1):
        announce(number, parts, link.text)
        length = Length(max(2, round(configured_steps(configs, link) * steps)), VALIDATIONS)
        words = [*options]
        if link.name == TAUGHT and expert is not None and not (output / TAUGHT / WEIGHTS).is_file():
            words += _cache_expert(Path(expert), configs, output, options, device)
        seconds += train_link("nano", configs, output, link, length, words, device, precision)
    announce(parts, parts, "packed weights, their figures, and the model card")
    packed = write_package(output, package)
    figures = [figure(each.name, each.text, _measure(each, output, package, metrics, weights, device)) for each in sets]
    _write_card(output, package, source, validated, packed, figures)
    size = sum(part.bytes for part in packed.values()) / 1e6
    print(
        f"\nDone; the trainings took {seconds / 60:.1f} minutes.\n"
        f"  weights   {package}, {size:.1f} MB\n"
        f"  card      {package / 'README.md'}\n"
        f"  curves    tensorboard --logdir {output}\n"
        f"  restore   ctsr upscale PHOTOS OUT --checkpoint {package / 'stage2' / WEIGHTS} --control 0,0.5,1"
    )
    return 0


def _cache_expert(expert: Path, configs: Path, output: Path, options: Sequence[str], device: str) -> list[str]:
    """Cache the expert's restorations of the training crops; the options with which T_r learns them."""
    from ctsr_lightning.commands.cache import cache

    os.environ["CTSR_RUNS"] = str(output)
    target = ["--model.target", "ExpertTeacher", "--model.target.file", str(expert)]
    words = [*options, *target]
    pairs = [f"{name.removeprefix('--')}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]
    training = configs / f"{TAUGHT}.yaml"
    cache([str(training)], output / "expert", options=shlex.join(pairs), device=torch_device(device))
    return [*target, "--model.cache", str(output / "expert")]


class TestSet(NamedTuple):
    """Images to measure on: a folder of ground truth, with its low-quality images or not, or a data configuration."""

    name: str
    """Name of its folder of results."""
    text: str
    """Description on the card."""
    gt: Path | None = None
    lq: Path | None = None
    data: Path | None = None


def test_sets(words: Sequence[str]) -> "list[TestSet]":
    """The test sets in folders and data configurations.

    Raises:
        FileNotFoundError: If there is none of that name.
        ValueError: If two have the same name.
    """
    from ctsr_lightning.data.pairing.layouts import benchmark_folders, gt_folder

    sets = []
    for path in (Path(word).expanduser() for word in words):
        if path.suffix in {".yaml", ".yml"}:
            sets.append(TestSet(path.stem, f"test set of {path.name}", data=path))
            continue
        truth = gt_folder(path)
        lq = None if truth == path else benchmark_folders(path)[0]
        text = "photographs degraded by `realesrgan` with seed 0" if lq is None else "pairs as they are"
        sets.append(TestSet(path.resolve().name, text, truth, lq))
    names = [each.name for each in sets]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected test sets of different names, found {', '.join(names)}. Rename a folder.")
    return sets


def _check_measurements(sets: Sequence[TestSet], metrics: str, weights: str | list[str] | None) -> None:
    """Refuse what could only fail after the trainings."""
    from ctsr_lightning.evaluation.setup import build_metrics, load_data
    from ctsr_lightning.images import list_images
    from ctsr_lightning.metrics.named import metric_names
    from ctsr_lightning.weights.search import weight_search_path

    for each in sets:
        if each.data is not None:
            load_data(each.data)
        elif each.gt is not None:
            list_images(each.gt)
    if metrics:
        with weight_search_path(*listed(weights)):
            build_metrics(metric_names(metrics), skip_unavailable=False)


def _check_expert(expert: Path, pool: int | None) -> None:
    from ctsr_lightning.teachers import ExpertTeacher

    if pool is None:
        raise ValueError("Expected a --pool with --expert, whose pictures of the training crops are made once.")
    ExpertTeacher(expert)  # refuses what is no restoration network for x4


def _write_card(
    output: Path,
    package: Path,
    source: str | None,
    validated: str | None,
    packed: "Mapping[str, Part]",
    figures: Sequence[Mapping[str, Any]],
) -> None:
    """Measure the effect of rounding, and write the card as data and as text."""
    from ctsr_lightning.data import RealESRGANDataModule
    from ctsr_lightning.evaluation.protocol import versions
    from ctsr_lightning.evaluation.report import write_json
    from recipes.nano.card import card, card_markdown, training_settings
    from recipes.nano.pack import rounding_effect

    arguments = training_settings(output / CHAIN[-1].name)["data"]["init_args"]
    kept = {name: arguments[name] for name in ("scale", "crop", "val_crop", "val_repeats", "val_split")}
    photos = RealESRGANDataModule(train=source, val=validated, num_workers=0, **kept)  # from where they are now
    photos.setup("fit")
    crops = [batch.lq for batch, _ in zip(photos.val_dataloader(), range(ROUNDING_CROPS), strict=False)]
    data = {
        "name": "sample photographs of scikit-image" if source is None else Path(source).name,
        "photographs": len(photos.train_dataloader().dataset),  # type: ignore[arg-type]  # torch's type has no length
        "validated_on": len(photos.validation_photos),
    }
    record = card(output, packed, data, rounding_effect(output, package, crops), figures, versions())
    write_json(package / "card.json", record)
    (package / "README.md").write_text(card_markdown(record), encoding="utf-8")


def _measure(
    each: TestSet, output: Path, package: Path, metrics: str, weights: str | list[str] | None, device: str
) -> dict[str, Any]:
    """The record of `ctsr sweep` on a test set, measured now unless it was since the weights were made."""
    from ctsr_lightning.commands.sweep import sweep
    from ctsr_lightning.metrics.named import metric_names
    from recipes.nano.pack import PARTS

    folder = output / "sweep" / each.name
    path = folder / "tradeoff.json"
    made = max((output / name / WEIGHTS).stat().st_mtime for name in PARTS)
    source = each.data.stem if each.data is not None else str(each.gt)
    wanted = set(metric_names(metrics)) if metrics else set()
    if path.is_file() and path.stat().st_mtime > made:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["source"].startswith(source) and wanted <= record["protocol"]["metrics"].keys():
            print(f"complete: {path}", flush=True)
            return record
    sweep(
        package / "stage2" / WEIGHTS,
        each.gt,
        each.lq,
        each.data,
        folder,
        metrics=metrics,
        weights=weights,
        name="nano",
        device=torch_device(device),
    )
    return dict(json.loads(path.read_text(encoding="utf-8")))
