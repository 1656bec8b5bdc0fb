"""Samples become batches, ready or with the degradation still to be applied on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.data.datasets import Sample
from ctsr_lightning.degradation.plan import Plan, apply_plans, one_thread


class PlannedBatch:
    """A batch whose low-quality images are made where the ground truth is sent, by `apply`.

    Args:
        gt: Ground truth (B, 3, H, W).
        lq: Low-quality images (B, 3, h, w) of samples that have one, as in pairs; anything elsewhere.
        plans: A plan for each image that has none.
        key: Names.
    """

    def __init__(self, gt: Tensor, lq: Tensor, plans: Sequence[Plan | None], key: list[str]) -> None:
        self.gt = gt
        self.lq = lq
        self.plans = plans
        self.key = key

    def to(self, device: torch.device, *, non_blocking: bool = False) -> PlannedBatch:
        """Send the images to a device; Lightning calls this."""
        gt, lq = (x.to(device, non_blocking=non_blocking) for x in (self.gt, self.lq))
        return PlannedBatch(gt, lq, self.plans, self.key)

    def pin_memory(self) -> PlannedBatch:
        """Move the images to page-locked memory; the data loader calls this."""
        return PlannedBatch(self.gt.pin_memory(), self.lq.pin_memory(), self.plans, self.key)

    def apply(self) -> Batch:
        """Degrade, on the device where the images are."""
        lq = self.lq.clone()
        for index, plan in enumerate(self.plans):
            if plan is not None:
                lq[index : index + 1] = apply_plans(self.gt[index : index + 1], [plan])
        return Batch(lq, self.gt, self.key)


@one_thread()
def collate(samples: Sequence[Sample]) -> Batch | PlannedBatch:
    """Stack samples of one size.

    Raises:
        ValueError: If the sizes differ.
    """
    key = [sample.key for sample in samples]
    ready = [sample.lq for sample in samples if sample.lq is not None]
    truth = [sample.gt for sample in samples if sample.gt is not None]
    sizes = {tuple(image.shape[-2:]) for image in truth or ready}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"Expected images of one size in a batch, found {shown} pixels. Set `eval_batch_size: 1`, or a `val_crop`."
        )
    gt = torch.stack(truth) if truth else None
    if len(ready) == len(samples):
        return Batch(torch.stack(ready), gt, key)
    assert gt is not None
    h, w = gt.shape[-2:]
    rows = [gt.new_zeros(3, h // s.plan.scale, w // s.plan.scale) if s.plan is not None else s.lq for s in samples]
    return PlannedBatch(gt, torch.stack([row for row in rows if row is not None]), [s.plan for s in samples], key)
