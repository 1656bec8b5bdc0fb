"""The smallest module and data that the callbacks can be tried on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ctsr_lightning.batch import Batch
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.frechet import FeatureNetwork

SCALE = 2


class Distance(PerceptualDistance):
    """Mean absolute difference of neighbouring pixels' differences."""

    @property
    def name(self) -> str:
        return "edges"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.diff(dim=-1) - y.diff(dim=-1)).abs().mean(dim=(1, 2, 3))


class Features(FeatureNetwork):
    """Means and deviations of the colour channels."""

    @property
    def name(self) -> str:
        return "colours"

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


class Photos(Dataset[Any]):
    """Smooth random pictures and their halves."""

    def __init__(self, count: int, *, with_gt: bool = True, size: int = 24) -> None:
        self.count, self.with_gt, self.size = count, with_gt, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, str]:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        gt = F.interpolate(coarse, (self.size, self.size), mode="bicubic").clamp(0, 1)
        lq = F.avg_pool2d(gt, SCALE) + 0.05 * torch.randn(
            1, 3, self.size // SCALE, self.size // SCALE, generator=generator
        )
        return lq[0].clamp(0, 1), gt[0] if self.with_gt else None, f"folder{index % 2}/photo{index}"


def collate(samples: Sequence[tuple[Tensor, Tensor | None, str]]) -> Batch:
    lq, gt, keys = zip(*samples, strict=True)
    return Batch(torch.stack(lq), None if gt[0] is None else torch.stack(gt), list(keys))


class Unpadded(DistributedSampler[Any]):
    """Every image once, so that processes may get different numbers."""

    def __iter__(self) -> Iterator[int]:
        self.num_samples = len(range(self.rank, len(self.dataset), self.num_replicas))
        return iter(range(self.rank, len(self.dataset), self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))


class PhotoData(LightningDataModule):
    """The same photos in all loops."""

    def __init__(self, count: int = 7, batch_size: int = 2, *, with_gt: bool = True, unpadded: bool = False) -> None:
        super().__init__()
        self.count, self.batch_size, self.with_gt, self.unpadded = count, batch_size, with_gt, unpadded

    def _loader(self, *, with_gt: bool) -> DataLoader[Any]:
        photos = Photos(self.count, with_gt=with_gt)
        sampler = None
        if self.unpadded:
            assert self.trainer is not None
            sampler = Unpadded(photos, self.trainer.world_size, self.trainer.global_rank, shuffle=False)
        return DataLoader(photos, batch_size=self.batch_size, sampler=sampler, collate_fn=collate)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(with_gt=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(with_gt=self.with_gt)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(with_gt=self.with_gt)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(with_gt=False)


class Blend(LightningModule):
    """Nearest enlargement times a learned gain; with a control, a blend from it to the bilinear one."""

    scale = SCALE

    def __init__(self, *, controllable: bool = False, lr: float = 0.1) -> None:
        super().__init__()
        self.controllable, self.lr = controllable, lr
        self.gain = nn.Parameter(torch.tensor([0.9]))
        self.still = nn.Parameter(torch.ones(2), requires_grad=False)
        self.reference_calls = 0

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        return self.raw(lq).clamp(0, 1)

    def raw(self, lq: Tensor) -> Tensor:
        return self.gain * F.interpolate(lq, scale_factor=SCALE, mode="nearest")

    def sweep(self, lq: Tensor, controls: Sequence[float], keys: list[str] | None = None) -> list[Tensor]:
        start, end = self.restore(lq), F.interpolate(lq, scale_factor=SCALE, mode="bilinear")
        return [(1 - t) * start + t * end for t in controls]

    def references(self, batch: Batch) -> dict[str, Tensor]:
        self.reference_calls += 1
        large = F.interpolate(batch.lq, scale_factor=SCALE, mode="bilinear")
        return {"T_f": large, "T_r": (large + 0.1 * torch.randn_like(large)).clamp(0, 1)}

    def trimmed_state(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.gt is not None
        return F.mse_loss(self.raw(batch.lq), batch.gt)

    def validation_step(self, batch: Batch, batch_idx: int) -> None: ...

    def test_step(self, batch: Batch, batch_idx: int) -> None: ...

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.controllable:
            return {f"t={t:.2f}": image for t, image in zip((0.0, 1.0), self.sweep(batch.lq, (0.0, 1.0)), strict=True)}
        return {"restored": self.restore(batch.lq)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.gain], lr=self.lr)
