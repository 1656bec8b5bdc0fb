"""Control in the image's space against control on latents: how far the pictures are apart, and what each t costs.

python benchmarks/image_space.py PHOTOS --count 6
python benchmarks/image_space.py --shape sd21 --size 8
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from ctsr_lightning.degradation import realesrgan
from ctsr_lightning.images import list_images, read_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.timing import generated_model
from ctsr_lightning.metrics.distortion import psnr_y
from ctsr_lightning.metrics.perceptual import perceptual_distance
from ctsr_lightning.models import TradeOff
from ctsr_lightning.tables import markdown_table

CONTROLS = (0.25, 0.5, 0.75)
SPREAD = 0.3
"""Standard deviation of v over that of z_0 that random weights are brought to, by a factor on v."""


def inputs(photos: Path, count: int, side: int, scale: int) -> list[tuple[Tensor, Tensor]]:
    """Low quality and ground truth, shape (1, 3, h, w): pairs, or central crops of photos, degraded with fixed seeds.

    Args:
        photos: A folder of photos, or of pairs in its folders lq and gt.
        count: Photos.
        side: Side of the crops.
        scale: Reduction.
    """
    if (photos / "lq").is_dir():
        halves = (list_images(photos / name)[:count] for name in ("lq", "gt"))
        return [(read_image(lq)[None], read_image(gt)[None]) for lq, gt in zip(*halves, strict=True)]
    found = []
    for number, path in enumerate(list_images(photos)[:count]):
        photo = read_image(path)
        top, left = ((length - side) // 2 for length in photo.shape[-2:])
        gt = photo[None, :, top : top + side, left : left + side]
        plan = realesrgan().sample(torch.Generator().manual_seed(number), scale)
        found.append((plan.apply(gt), gt))
    return found


def moving_model() -> TradeOff:
    """A model of full size with random weights, whose velocity is not zero."""
    model = generated_model()
    torch.nn.init.normal_(model.velocity.head.weight)
    return model


def costs(latent: Restorer, image: Restorer, lq: Tensor, values: list[int]) -> None:
    """Print what numbers of values of t cost in both spaces.

    Args:
        latent: Restores on latents.
        image: Restores in the image's space.
        lq: Input, shape (1, 3, h, w).
        values: The numbers.
    """
    rows = []
    for count in values:
        controls = [i / max(1, count - 1) for i in range(count)]
        seconds = []
        for restorer in (latent, image):
            start = time.process_time()
            restorer(lq, controls)
            seconds.append(time.process_time() - start)
        rows.append((str(count), *(f"{value:.2f}" for value in seconds)))
    print(markdown_table(("values of t", "latent, s", "image, s"), rows))
    end, start = image.trajectory(lq), time.process_time()
    for i in range(60):
        image.decode(end, i / 60)
    each = (time.process_time() - start) / 60
    print(f"\nA further t in the image's space: {1e6 * each:.0f} microseconds.")


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photos or pairs (lq, gt); noise without")
    parser.add_argument("--count", type=int, default=6, help="photos")
    parser.add_argument(
        "--shape", choices=["nano", "sd21"], default="nano", help="the shipped model, or generated weights"
    )
    parser.add_argument("--size", type=int, default=64, help="side of the low-quality images")
    parser.add_argument("--values", type=int, nargs="*", default=[1, 2, 6, 60], help="numbers of values of t to time")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    torch.manual_seed(0)
    latent = Restorer(moving_model(), "cpu") if words.shape == "sd21" else Restorer.from_pretrained("nano", "cpu")
    image, size = Restorer(latent.model, "cpu", space="image"), words.size
    if words.photos is None:
        pairs = [(torch.rand(1, 3, size, size), torch.rand(1, 3, size * latent.scale, size * latent.scale))]
    else:
        pairs = inputs(words.photos, words.count, size * latent.scale, latent.scale)
    paths = [latent.trajectory(lq) for lq, _ in pairs]
    if words.shape == "sd21":
        halves = [path.state.chunk(2, dim=1) for path in paths]
        states = [torch.cat([z, v * (SPREAD * z.std() / v.std())], dim=1) for z, v in halves]
        paths = [path._replace(state=state) for path, state in zip(paths, states, strict=True)]
    ends = [latent.in_image_space(path) for path in paths]
    z_0, velocity = paths[0].state.chunk(2, dim=1)
    print(f"Spread of v over that of z_0: {float(velocity.std() / z_0.std()):.2f}\n", flush=True)
    distance = perceptual_distance("squeeze")
    rows = []
    for t in CONTROLS:
        figures = []
        for path, end, (_, gt) in zip(paths, ends, pairs, strict=True):
            own, other = latent.decode(path, t), image.decode(end, t)
            with torch.no_grad():
                lpips = [float(distance(x, gt)) for x in (own, other)]
            between = float(-10 * (own - other).double().square().mean().log10())
            figures.append([between, float(psnr_y(own, gt)), float(psnr_y(other, gt)), *lpips])
        a, b, c, d, e = torch.tensor(figures).mean(0).tolist()
        rows.append((f"{t:g}", f"{a:.1f}", f"{b:.2f}, {c:.2f}", f"{d:.4f}, {e:.4f}"))
    heads = ("t", "PSNR between the two, dB", "PSNR-Y: latent, image", f"{distance.name}: latent, image")
    print(markdown_table(heads, rows), flush=True)
    if words.values:
        costs(latent, image, pairs[0][0], words.values)
        print(f"Processor time, {words.threads} threads; {words.shape}, {tuple(pairs[0][0].shape)}.")


if __name__ == "__main__":
    main()
