"""Time and memory of a restoration by the size of its output, and how far tiles are from the whole image.

python benchmarks/large_photos.py --megapixels 1 12 50
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.images import read_image, read_picture, resize_bicubic, write_image, write_picture
from ctsr_lightning.images.samples import val_samples
from ctsr_lightning.inference.devices import peak_memory, reset_peak_memory
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent, TradeOff
from ctsr_lightning.networks import VelocityField, nano_unet
from ctsr_lightning.tables import markdown_row, markdown_table


def narrow() -> TradeOff:
    """Networks of nano's layout with few channels and generated weights, so that the picture dominates."""
    torch.manual_seed(0)
    student = OneStepStudent(nano_unet(4, widths=(8, 16)), NanoCodec(4, 8, (4, 4, 4)), timestep=250)
    return TradeOff(student, VelocityField(nano_unet(4, widths=(8, 16))))


def large(megapixels: list[float], restorer: Restorer) -> None:
    """Print a table: a photo of 4 : 3 read, restored at t = 0, written as PNG.

    Args:
        megapixels: Sizes of the output.
        restorer: The model.
    """
    photo, cpu = read_image(val_samples()[0])[None], torch.device("cpu")
    heads = ("output", "megapixels", "tiles", "seconds", "seconds per megapixel", "peak memory, GiB")
    print(markdown_table(heads, []), flush=True)
    for size in megapixels:
        height = round(math.sqrt(size * 1e6 * 3 / 4) / restorer.scale)
        width = round(height * 4 / 3)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "photo.png"), Path(folder, "restored.png")
            write_image(source, resize_bicubic(photo, (height, width))[0])
            reset_peak_memory(cpu)
            start = time.process_time()
            picture = read_picture(source)
            trajectory = [restorer.trajectory(picture.colours)]  # as `ctsr upscale` does
            colours = restorer.decode(trajectory.pop(), eight_bit=True)[0]
            write_picture(target, replace(picture, colours=colours))
            del colours
            seconds = time.process_time() - start
        shape, tiles = f"{4 * width}x{4 * height}", str(restorer.tiles(height, width))
        memory = (peak_memory(cpu) or 0) / 2**30
        row = (shape, f"{size:g}", tiles, f"{seconds:.0f}", f"{seconds / size:.1f}", f"{memory:.2f}")
        print(markdown_row(row), flush=True)


def tiled(device: str) -> None:
    """Print how far tiles are from the whole image: tiles with statistics of their own, and of the whole.

    Args:
        device: Where to compute.
    """
    whole = Restorer.from_pretrained("nano", device, tile=0)
    rows = []
    for path in val_samples():
        lq = resize_bicubic(read_image(path)[None], (128, 192))
        expected = whole(lq, [0.0, 1.0])
        for label, alike in (("their own", False), ("the whole's", True)):
            restorer = Restorer(whole.model, device, tile=64)
            if not alike:
                restorer._whole.norms = []
            for t, image, truth in zip((0, 1), restorer(lq, [0.0, 1.0]), expected, strict=True):
                error = (image - truth).double()
                psnr = -10 * float(error.square().mean().log10())
                levels = [255 * float(e.abs().max()) for e in (error, F.avg_pool2d(error, 32))]
                rows.append((path.stem, label, str(t), f"{psnr:.1f}", f"{levels[0]:.1f}", f"{levels[1]:.2f}"))
    heads = ("photo", "statistics", "t", "PSNR to untiled, dB", "largest error, grey levels", "over 32 x 32 pixels")
    print(markdown_table(heads, rows), flush=True)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[1, 12, 50], help="sizes of the output")
    parser.add_argument("--narrow", action="store_true", help="generated networks of few channels in place of nano")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    if words.narrow:
        large(words.megapixels, Restorer(narrow(), words.device))
    else:
        tiled(words.device)
        large(words.megapixels, Restorer.from_pretrained("nano", words.device))
    print(f"\nProcessor time, {words.threads} threads.")


if __name__ == "__main__":
    main()
