"""What a map of t from the photo alone is worth where photos have lettering, against single values of t.

Words are printed onto central crops of photos, in sizes, places and colours of fixed seeds; the crops are degraded as
SeeSR does (`light`) or Real-ESRGAN, restored, and measured over the whole crop and inside the boxes of the words.

    python benchmarks/control_map.py PHOTOS --count 24
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ctsr_lightning.degradation import light, realesrgan
from ctsr_lightning.images import list_images, read_image
from ctsr_lightning.inference.control_map import automatic_map, fit_map
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.distortion import psnr_y
from ctsr_lightning.metrics.perceptual import perceptual_distance
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
CONTROLS = (0.0, 0.25, 0.5, 0.75, 1.0)
BOX = 40
"""Least height of a box that is measured in, which LPIPS needs, in pixels."""

Box = tuple[int, int, int, int]


def lettered(photo: Tensor, seed: int) -> tuple[Tensor, list[Box]]:
    """A photo with three words printed on it, and their boxes as top, left, bottom and right.

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
        boxes.append((first, max(0, box[1]), min(side, last), min(side, max(box[3], box[1] + BOX))))
    pixels = torch.tensor(list(canvas.tobytes()), dtype=torch.float32).view(side, side, 3)
    return pixels.permute(2, 0, 1) / 255, boxes


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
    restorer, distance = Restorer.from_pretrained(words.checkpoint, "cpu"), perceptual_distance("squeeze")
    degrade = realesrgan() if words.degradation == "realesrgan" else light()
    sums: dict[str, list[list[float]]] = defaultdict(list)
    shares = []
    for number, path in enumerate(list_images(words.photos)[: words.count]):
        photo = read_image(path)
        top, left = ((length - words.side) // 2 for length in photo.shape[-2:])
        crop = photo[:, top : top + words.side, left : left + words.side]
        gt, boxes = lettered(crop, number)
        lq = degrade.sample(torch.Generator().manual_seed(number), restorer.scale).apply(gt[None])
        trajectory = restorer.trajectory(lq)
        control = fit_map(automatic_map(lq), trajectory.size)
        inside = torch.zeros_like(control)
        places = [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in boxes]
        for rows, columns in places:
            inside[..., rows, columns] = 1.0
        shares.append((float(control[inside > 0].mean()), float(control[inside == 0].mean())))
        for label, t in [*((f"t = {t:g}", t) for t in CONTROLS), ("auto", control), ("boxes", inside)]:
            restored = restorer.decode(trajectory, t)
            parts = [(restored[..., rows, columns], gt[None, :, rows, columns]) for rows, columns in places]
            with torch.no_grad():
                figures = [psnr_y(restored, gt[None]), distance(restored, gt[None])]
                figures += [
                    torch.stack([measure(*p).squeeze() for p in parts]).mean() for measure in (psnr_y, distance)
                ]
            sums[label].append([float(figure) for figure in figures])
        if words.pictures is not None:
            from ctsr_lightning.images import image_grid, resize_bicubic, write_image

            enlarged = resize_bicubic(lq, trajectory.size)[0]
            shown = [
                gt,
                enlarged,
                control[0].expand(3, -1, -1),
                *(restorer.decode(trajectory, t)[0] for t in (0.0, 1.0, control)),
            ]
            write_image(words.pictures / f"{path.stem}.png", image_grid([shown]))
    heads = ("t", "PSNR-Y", distance.name, "PSNR-Y in boxes", f"{distance.name} in boxes")
    means = {label: torch.tensor(rows).mean(0).tolist() for label, rows in sums.items()}
    table = [(label, f"{a:.2f}", f"{b:.4f}", f"{c:.2f}", f"{d:.4f}") for label, (a, b, c, d) in means.items()]
    print(markdown_table(heads, table))
    inner, outer = torch.tensor(shares).mean(0).tolist()
    print(
        f"\n{len(shares)} photos, {words.degradation}; the map's mean is {inner:.2f} in the boxes, {outer:.2f} outside."
    )


if __name__ == "__main__":
    main()
