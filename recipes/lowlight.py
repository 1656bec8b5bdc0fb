"""`make lowlight`: the paper's low-light extension in small, and a table as its Table 5."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ctsr_lightning.inference.devices import torch_device
from ctsr_lightning.inference.settings import TrainingPrecision
from ctsr_lightning.tables import markdown_table
from recipes.chain import WEIGHTS, Length, Link, announce, configured_steps, remarks, remember_photographs, train_link

LINKS: Final = (
    Link("lowlight/fidelity_teacher", "T_f, faithful: residual shift from the dark to the light"),
    Link("lowlight/realness_teacher", "T_r, realistic: one step from the dark to the light"),
    Link("lowlight/stage1", "stage 1: two teachers, one student"),
    Link("lowlight/stage2", "stage 2, beyond the paper: from realness to fidelity"),
)
"""The trainings; codec and prior are those of a chain of super-resolution."""
KEPT: Final = ("codec", "prior")
"""Trainings of that chain which stay as they are."""
PICTURE: Final = "examples.png"
"""Some test images by every method, in the folder of the evaluation."""
TRAINING, TEST = "our485", "eval15"
"""Folders of LOL v1, each with `low` and `high`."""
METRICS: Final = {
    "psnr_rgb": ("PSNR ↑", 2),
    "psnr_rgb_gtmean": ("PSNR, GT-mean ↑", 2),
    "ssim_y": ("SSIM ↑", 4),
    "lpips_alex": ("LPIPS-Alex ↓", 4),
    "lpips_vgg": ("LPIPS-VGG ↓", 4),
    "lpips_squeeze": ("LPIPS-Squeeze ↓", 4),
}
"""Columns: head and digits of each metric whose weights are there."""
ROWS: Final = {
    "input": ("input", ()),
    "T_f": ("T_f", LINKS[:1]),
    "T_r": ("T_r", LINKS[1:2]),
    "blend α=0.50": ("half T_f, half T_r", LINKS[:2]),
    "t=0.00": ("distilled", LINKS[2:3]),
    "t=0.50": ("distilled, t = 0.5", LINKS[2:]),
    "t=1.00": ("distilled, t = 1", LINKS[2:]),
}
"""Rows: name of each method in the table, and the trainings whose networks it runs."""
PAPER: Final = (
    ("GSAD (T_f)", "28.67", "0.9444", "0.0487", "17.17"),
    ("Reti-Diff (T_r)", "27.53", "0.9512", "0.0349", "26.11"),
    ("GSAD (distilled)", "28.69", "0.9507", "0.0336", "17.17"),
)
"""Table 5: PSNR, SSIM, LPIPS, parameters in millions."""


def lowlight(
    output: str | Path = "runs/lowlight",
    data: str | Path = "data/lol",
    chain: str | Path | None = None,
    page: str | Path | None = None,
    configs: str | Path = "configs/nano",
    steps: float = 1.0,
    limit: int | None = None,
    examples: int = 3,
    weights: str | None = None,
    device: str = "auto",
    precision: TrainingPrecision = "auto",
) -> int:
    """Train CTSR at scale 1 on pairs in the dark and in the light, and write a table as the paper's Table 5.

    Two teachers, stage 1 and, beyond the paper, stage 2, on a chain's codec and prior; several hours of a CPU core.
    Finished trainings are kept: the same command after Ctrl-C goes on where it stopped. Then `ctsr evaluate` measures
    them on whole test images. The paper's data, LOL v2 synthetic, is another set: its figures are no bound for these.

    Example:
        python -m recipes lowlight --data data/lol

    Args:
        output: Folder for the trainings and the evaluation.
        data: Folder of LOL v1 as it comes: our485 and eval15, in each `low` and `high`. Other pairs of equal sizes in
            these folders do as well.
        chain: Folder of a finished chain, such as `make nano` leaves, with codec and prior. Without it, the package's.
        page: The page; OUTPUT/lowlight.md by default. STEM_reading.md beside it, remarks of a person, goes into it.
        configs: Folder of the nano configurations.
        steps: Factor on the length of every training.
        limit: Test images to stop after.
        examples: Test images to show beside the page; 0 for none, as LOL's may not be passed on.
        weights: Folders with weight files of LPIPS, searched before TORCH_HOME; several with commas between. An LPIPS
            without its weights is left out.
        device: Accelerator for Lightning: auto, cpu, gpu, mps.
        precision: Type that networks compute in while they are trained, as in `python -m recipes nano`.

    Returns:
        0.
    """
    from ctsr_lightning.images import list_images, read_image, write_image
    from ctsr_lightning.weights.shipped import shipped_folder

    output, configs, data = (Path(place).expanduser() for place in (output, configs, data))
    folder = shipped_folder() if chain is None else Path(chain).expanduser()
    if steps <= 0:
        raise ValueError(f"Expected a positive --steps, found {steps}.")
    counts = {part: [len(list_images(data / part / side)) for side in ("low", "high")] for part in (TRAINING, TEST)}
    for name in KEPT:
        if not (folder / name / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"Expected a finished chain with '{name}/{WEIGHTS}' in '{folder}', found none. Name the output folder "
                "of `make nano` with --chain."
            )
    remember_photographs(output, str(data.resolve()))
    for name in KEPT:
        shutil.copytree(folder / name, output / name, dirs_exist_ok=True)
    pairs = [{"lq": str(data.resolve() / TRAINING / "low"), "gt": str(data.resolve() / TRAINING / "high")}]
    words = ["--data.init_args.pairs", json.dumps(pairs), "--trainer.num_sanity_val_steps", "0"]
    for number, link in enumerate(LINKS, 1):
        announce(number, len(LINKS) + 1, link.text)
        length = Length(max(2, round(configured_steps(configs, link) * steps)), 1)
        train_link("lowlight", configs, output, link, length, words, device, precision)
    announce(len(LINKS) + 1, len(LINKS) + 1, "measured on the test pairs")
    _evaluate(output, data / TEST, limit, examples, weights, device)
    path = output / "lowlight.md" if page is None else Path(page).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if examples and (picture := output / "evaluation" / PICTURE).is_file():
        write_image(_picture(path), read_image(picture))
    path.write_text(page_text(path, output, counts[TRAINING][0]), encoding="utf-8")
    print(f"\n{path.read_text(encoding='utf-8')}\n→ {path}")
    return 0


def _evaluate(output: Path, pairs: Path, limit: int | None, examples: int, weights: str | None, device: str) -> None:
    """Measure everything by `ctsr evaluate`; a finished measurement stays."""
    from ctsr_lightning.commands.evaluate import evaluate

    folder = output / "evaluation"
    if (folder / "summary.json").is_file():
        print(f"complete: {folder}", flush=True)
        return
    evaluate(
        pairs / "low",
        pairs / "high",
        metrics=",".join(METRICS),
        output=folder,
        checkpoint=output / LINKS[-1].name / WEIGHTS,
        control="0,0.5,1",
        alphas="0.5",
        weights=weights,
        skip_unavailable=True,
        limit=limit,
        examples=examples,
        device=torch_device(device),
        name="CTSR, low light",
    )


def page_text(path: Path, output: Path, pairs: int) -> str:
    """The page: our table, what it can tell, and the paper's.

    Args:
        path: The page, for its name and the remarks beside it.
        output: The folder of the trainings and the evaluation.
        pairs: Training pairs.
    """
    folder = output / "evaluation"
    record: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    found = {result["setting"]: result for result in record["results"]}
    metrics = [name for name in METRICS if name in record["protocol"]["metrics"]]
    sizes = {link: _parameters(output / link.name / WEIGHTS) for link in LINKS}
    rows = [
        [
            name,
            *(f"{found[label][metric]:.{METRICS[metric][1]}f}" for metric in metrics),
            f"{sum(sizes[link] for link in networks) / 1e6:.2f}" if networks else "",
        ]
        for label, (name, networks) in ROWS.items()
    ]
    lengths = ", ".join(f"{Path(link.name).name} {_steps(output / link.name / WEIGHTS):,} steps" for link in LINKS)
    images = record["images"]
    trained = (
        f"Trained on {pairs} pairs ({lengths}), measured on {images} whole images, PSNR on RGB, SSIM on Y. GT-mean "
        "brings each result to the ground truth's mean brightness first, as GSAD's figures do. Parameters, in "
        f"millions, are those of the denoisers; the codec has {_parameters(output / 'codec' / WEIGHTS) / 1e6:.2f}."
    )
    compared = (
        f"Distilled against T_f, means over {images} images with their standard errors: "
        f"{_differences(folder / 'per_image.csv', metrics)}. A difference of less than two standard errors says "
        "nothing, and other seeds of the trainings move the figures as well."
    )
    paper = (
        "The paper's figures are on LOL v2 synthetic (100 test pairs of another kind), with published teachers in "
        "pixels; its student starts as T_f, this one as T_r, which has its form. Only the pattern compares: T_f's PSNR "
        "kept, and an LPIPS not above T_r's."
    )
    sections = [
        "# Low light: a table as the paper's Table 5",
        "*Generated by `python -m recipes lowlight`; do not edit.*",
        *remarks(path),
        trained,
        markdown_table(["", *(METRICS[metric][0] for metric in metrics), "parameters"], rows),
        compared,
        *([f"![Test images by every method]({_picture(path).name})"] if _picture(path).is_file() else []),
        paper,
        markdown_table(["paper, LOL v2 synthetic", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "parameters"], [*map(list, PAPER)]),
    ]
    return "\n\n".join(sections) + "\n"


def _picture(page: Path) -> Path:
    """Where the picture beside a page is."""
    return page.with_name(f"{page.stem}_images.jpg")


def _differences(path: Path, metrics: list[str]) -> str:
    """Mean difference between the distilled student and T_f in each metric, with its standard error over images."""
    with path.open(encoding="utf-8") as file:
        values: Mapping[str, dict[str, dict[str, str]]] = {"T_f": {}, "t=0.00": {}}
        for line in csv.DictReader(file):
            if line["setting"] in values:
                values[line["setting"]][line["image"]] = line
    texts = []
    for metric in metrics:
        each = [float(line[metric]) - float(values["T_f"][key][metric]) for key, line in values["t=0.00"].items()]
        mean, count = sum(each) / len(each), len(each)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in each) / max(1, count - 1) / count)
        digits = METRICS[metric][1]
        texts.append(f"{metric} {mean:+.{digits}f} ± {deviation:.{digits}f}")
    return ", ".join(texts)


def _parameters(path: Path) -> int:
    """Number of weights in a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _steps(path: Path) -> int:
    from recipes.nano.pack import weights_metadata

    return int(weights_metadata(path)["steps"])
