"""One process of a group that measures a set of images together; started by `test_quality_distributed.py`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ctsr_lightning.images import read_image
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.distortion import PSNRY, SSIMY
from ctsr_lightning.metrics.frechet import FeatureNetwork, FrechetDistance
from ctsr_lightning.metrics.perceptual import PerceptualMetric
from ctsr_lightning.metrics.quality import NIQE
from helpers.reference import SHARED

COUNTS = (7, 2)
"""Sets of images: one that two and three processes share unevenly, one that leaves the third process without any."""

PUBLISHED = [
    f"{camera}_{number:03d}_LR4"
    for camera, number in (("Canon", 5), ("Canon", 31), ("Nikon", 2), ("Nikon", 44), ("Nikon", 50))
]
"""Images whose published scores are known, where the folder with them is at hand."""


class Edges(PerceptualDistance):
    """A little float32 network as a distance."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3, generator=generator) / 5)

    @property
    def name(self) -> str:
        return "edges"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        one, other = (nn.functional.conv2d(image, self.weight).tanh() for image in (x, y))
        return (one - other).square().mean(dim=(1, 2, 3))


class Colours(FeatureNetwork):
    """Means and deviations of the colour channels: six features."""

    @property
    def name(self) -> str:
        return "colours"

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def pairs(count: int) -> tuple[Tensor, Tensor]:
    """Restored images and ground truth, different in every image."""
    generator = torch.Generator().manual_seed(count)
    gt = torch.rand(count, 3, 96, 100, generator=generator) ** torch.linspace(0.5, 2.0, count).view(-1, 1, 1, 1)
    return (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), gt


def sets() -> list[tuple[Tensor, Tensor]]:
    """Every set of images; the last one is the published images, if they are at hand."""
    found = [pairs(count) for count in COUNTS]
    if SHARED.is_dir():
        restored = [read_image(SHARED / "reference" / "osediff_realsr" / f"{name}.png") for name in PUBLISHED]
        gt = [read_image(SHARED / "data" / "realsr" / "gt" / f"realsr_{name}.png") for name in PUBLISHED]
        found.append((torch.stack(restored), torch.stack(gt)))
    return found


def metrics(niqe: Path) -> MetricCollection:
    distance, fid = PerceptualMetric(Edges()), FrechetDistance(Colours())
    chosen = {"psnr": PSNRY(), "ssim": SSIMY(), "niqe": NIQE(niqe), "edges": distance, "fid": fid}
    return MetricCollection(chosen, compute_groups=False)


def measure(
    collection: MetricCollection, images: tuple[Tensor, Tensor], rank: int = 0, world: int = 1
) -> dict[str, float]:
    """Measure one process's share, every `world`-th image, two at a time; the results are those of all."""
    collection.reset()
    restored, gt = (some[rank::world] for some in images)
    for x, y in zip(restored.split(2), gt.split(2), strict=True):
        if len(x) > 0:
            collection.update(x, y)
    return {name: value.item() for name, value in collection.compute().items()}


def process(rank: int, count: int, folder: Path) -> dict[int, list[dict[str, float]]]:
    """One of three processes: the results of every group that it is in, by the group's size."""
    collection, found = metrics(folder / "niqe.npz"), {}
    for world in range(count, 1, -1):  # the same processes form all groups, since starting them is what takes time
        if rank < world:
            store = f"file://{folder}/store-{world}"
            dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
            found[world] = [measure(collection, images, rank, world) for images in sets()]
            dist.destroy_process_group()
    return found
