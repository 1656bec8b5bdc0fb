"""What a map of t from the photo alone is worth where photos have lettering, against single values of t.

Words are printed onto central crops of photos, in sizes, places and colours of fixed seeds; the crops are degraded as
SeeSR does (`light`) or Real-ESRGAN, restored, and measured over the whole crop and inside the boxes of the words, where
they are read, too (RapidOCR, whose wheel has its weights).

    pip install rapidocr-onnxruntime
    python benchmarks/control_map.py PHOTOS --count 24
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchmetrics.functional.text import edit_distance

from ctsr_lightning.degradation import Degradation, light, realesrgan
from ctsr_lightning.images import image_grid, list_images, read_image, resize_bicubic, to_uint8, write_image
from ctsr_lightning.inference.control_map import automatic_map, fit_map
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.trajectory import Trajectory
from ctsr_lightning.metrics.distortion import psnr_y
from ctsr_lightning.metrics.perceptual import PerceptualDistance, perceptual_distance
from ctsr_lightning.tables import markdown_table

WORDS = (
    "harbour",
    "1927",
    "OPEN",
    "Lisbon",
    "quartz",
    "No.58",
    "Bakery",
    "12:45",
    "sphinx",
    "Exit",
    "Platform 3",
    "vow",
)
CONTROLS = tuple(step / 10 for step in range(11))
BOX = 40
"""Least height of a box that is measured in, which LPIPS needs, in pixels."""

Box = tuple[int, int, int, int]


class Figures(NamedTuple):
    """Means over the crops of one way to choose t; of boxes first within a crop."""

    psnr: float
    distance: float
    psnr_in_boxes: float
    distance_in_boxes: float
    wrong: float
    """Share of the characters in the boxes that are read wrong, in [0, 1]."""


def lettered(photo: Tensor, seed: int) -> tuple[Tensor, list[tuple[Box, str]]]:
    """A photo with three words printed on it, and these with their boxes as top, left, bottom and right.

    Args:
        photo: RGB in [0, 1], shape (3, H, W).
        seed: Seed of words, sizes, places and colours.
    """
    draws, side = random.Random(seed), photo.shape[-1]  # noqa: S311
    canvas = Image.fromarray((photo * 255).round().byte().permute(1, 2, 0).numpy())
    pen, boxes = ImageDraw.Draw(canvas), []
    for row in range(3):
        name = draws.choice(["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"])
        font = ImageFont.truetype(font_manager.findfont(name), draws.randint(32, 56))
        word = draws.choice(WORDS)
        left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
        x = draws.randint(4, max(4, side - 4 - (right - left))) - left
        y = 8 + row * (side // 3) + draws.randint(0, max(0, side // 3 - 16 - (bottom - top))) - top
        ground = draws.choice([(240, 236, 220), (20, 30, 60), (150, 30, 30), None])
        box = (y + top - 4, x + left - 4, y + bottom + 4, x + right + 4)
        if ground is not None:
            pen.rectangle((box[1], box[0], box[3], box[2]), fill=ground)
        dark = ground is not None and sum(ground) < 400
        pen.text((x, y), word, fill=(245, 245, 235) if dark or ground is None else (25, 25, 25), font=font)
        grown = max(0, BOX - (box[2] - box[0]))
        first = max(0, min(box[0] - grown // 2, side - max(BOX, box[2] - box[0])))
        last = max(first + BOX, box[2])
        boxes.append(((first, max(0, box[1]), min(side, last), min(side, max(box[3], box[1] + BOX))), word))
    pixels = torch.tensor(list(canvas.tobytes()), dtype=torch.float32).view(side, side, 3)
    return pixels.permute(2, 0, 1) / 255, boxes


def recogniser() -> Callable[[Tensor], str]:
    """What reads a word in a picture, RGB in [0, 1], shape (3, h, w); blanks and capitals are not told apart."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ModuleNotFoundError as error:
        raise SystemExit("Expected a reader of words, found none: pip install rapidocr-onnxruntime.") from error

    engine = RapidOCR(intra_op_num_threads=1)

    def read(picture: Tensor) -> str:
        pixels = to_uint8(picture)[..., ::-1].copy()  # BGR, as of OpenCV
        found, _ = engine(pixels, use_det=False, use_cls=False, use_rec=True)
        return plain(found[0][0]) if found else ""

    return read


def plain(text: str) -> str:
    """Text without blanks and capitals."""
    return "".join(text.split()).lower()


def prepared(
    restorer: Restorer, crop: Tensor, degrade: Degradation, seed: int
) -> tuple[Tensor, list[tuple[Box, str]], Tensor, Trajectory, Tensor]:
    """A lettered crop, its words, the input made of it, its trajectory, and the automatic map in its size."""
    gt, words = lettered(crop, seed)
    lq = degrade.sample(torch.Generator().manual_seed(seed), restorer.scale).apply(gt[None])
    trajectory = restorer.trajectory(lq)
    return gt, words, lq, trajectory, fit_map(automatic_map(lq), trajectory.size)


def measure(
    restorer: Restorer,
    crops: Sequence[Tensor],
    degrade: Degradation,
    distance: PerceptualDistance,
) -> tuple[dict[str, Figures], tuple[float, float]]:
    """Restore lettered crops at every t, by the automatic map and by one that knows the boxes.

    Args:
        restorer: A restorer of a model with a slider.
        crops: Photographs, RGB in [0, 1], square, shape (3, side, side).
        degrade: What makes the inputs.
        distance: The perceptual distance.

    Returns:
        Figures by label, and the mean of the automatic map in the boxes and outside.
    """
    read = recogniser()
    sums: dict[str, list[list[float]]] = defaultdict(list)
    wrong: dict[str, int] = defaultdict(int)
    shares, characters = [], 0
    for number, crop in enumerate(crops):
        gt, words, _, trajectory, control = prepared(restorer, crop, degrade, number)
        inside = torch.zeros_like(control)
        places = [(slice(top, bottom), slice(left, right)) for (top, left, bottom, right), _ in words]
        for rows, columns in places:
            inside[..., rows, columns] = 1.0
        shares.append([float(control[inside > 0].mean()), float(control[inside == 0].mean())])
        characters += sum(len(plain(word)) for _, word in words)
        chosen: dict[str, float | Tensor] = {f"t = {t:g}": t for t in CONTROLS}
        for label, t in {**chosen, "auto": control, "boxes": inside}.items():
            restored = restorer.decode(trajectory, t)
            parts = [(restored[..., rows, columns], gt[None, :, rows, columns]) for rows, columns in places]
            with torch.no_grad():
                figures = [score(restored, gt[None]) for score in (psnr_y, distance)]
                figures += [torch.stack([score(*p).squeeze() for p in parts]).mean() for score in (psnr_y, distance)]
            sums[label].append([float(figure) for figure in figures])
            for (part, _), (_, word) in zip(parts, words, strict=True):
                truth = plain(word)
                wrong[label] += min(len(truth), int(edit_distance([read(part[0])], [truth], reduction="sum")))
    means = {label: torch.tensor(rows).mean(0).tolist() for label, rows in sums.items()}
    inner, outer = torch.tensor(shares).mean(0).tolist()
    table = {label: Figures(a, b, c, d, wrong[label] / characters) for label, (a, b, c, d) in means.items()}
    return table, (inner, outer)


def least_distance(table: dict[str, Figures], wrong: float) -> float:
    """Least perceptual distance of a single t that reads as well, on straight lines between those measured.

    Args:
        table: Figures by label, of every t.
        wrong: Share of characters that may be read wrong.

    Returns:
        The distance; infinite if no t reads as well.
    """
    points = [table[f"t = {t:g}"] for t in CONTROLS]
    found = [point.distance for point in points if point.wrong <= wrong]
    for first, second in itertools.pairwise(points):
        if (first.wrong - wrong) * (second.wrong - wrong) < 0.0:
            part = (first.wrong - wrong) / (first.wrong - second.wrong)
            found.append(first.distance + part * (second.distance - first.distance))
    return min(found, default=float("inf"))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--count", type=int, default=24, help="photos")
    parser.add_argument("--side", type=int, default=256, help="side of the crops")
    parser.add_argument("--degradation", choices=["light", "realesrgan"], default="light")
    parser.add_argument("--checkpoint", default="nano", help="model")
    parser.add_argument("--pictures", type=Path, help="folder for inputs and their maps")
    words = parser.parse_args()
    restorer = Restorer.from_pretrained(words.checkpoint, "cpu")
    degrade = realesrgan() if words.degradation == "realesrgan" else light()
    crops = []
    for path in list_images(words.photos)[: words.count]:
        photo = read_image(path)
        top, left = ((length - words.side) // 2 for length in photo.shape[-2:])
        crops.append(photo[:, top : top + words.side, left : left + words.side])
    if words.pictures is not None:
        for number, crop in enumerate(crops):
            gt, _, lq, trajectory, control = prepared(restorer, crop, degrade, number)
            shown = [gt, resize_bicubic(lq, trajectory.size)[0], control[0].expand(3, -1, -1)]
            shown += [restorer.decode(trajectory, t)[0] for t in (0.0, 1.0, control)]
            write_image(words.pictures / f"{number}.png", image_grid([shown]))
    distance = perceptual_distance("squeeze")
    table, (inner, outer) = measure(restorer, crops, degrade, distance)
    name = distance.name
    heads = ("t", "PSNR-Y", name, "PSNR-Y in boxes", f"{name} in boxes", "characters read wrong")
    rows = [
        (label, f"{a:.2f}", f"{b:.4f}", f"{c:.2f}", f"{d:.4f}", f"{100.0 * wrong:.1f} %")
        for label, (a, b, c, d, wrong) in table.items()
    ]
    print(markdown_table(heads, rows))
    print(
        f"\n{len(crops)} photos, {words.degradation}; the map's mean is {inner:.2f} in the boxes, {outer:.2f} outside."
    )
    for label in ("auto", "boxes"):
        row = table[label]
        print(
            f"{label}: {name} {row.distance:.4f}; a single t that reads as well has "
            f"{least_distance(table, row.wrong):.4f} at least (inf: there is none)."
        )


if __name__ == "__main__":
    main()
