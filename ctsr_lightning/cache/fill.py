"""The frozen networks of a training, run batch by batch for `ctsr cache`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import to_uint8
from ctsr_lightning.inference.devices import pick_device
from ctsr_lightning.inference.precision import inference_precision
from ctsr_lightning.inference.settings import Precision
from ctsr_lightning.progress import progress

if TYPE_CHECKING:
    from ctsr_lightning.batch import Batch


class FillCounts(NamedTuple):
    """Counts of one split."""

    images: int
    """Images of this process's share."""
    computed: int
    """Those of them that the networks were run on."""
    seconds: float
    """Time of that, without making the images."""


PICTURES: Final = frozenset({"fidelity", "target"})
"""Answers that are images, kept as 8-bit ones."""


class CacheFiller:
    """The frozen networks of a training, on their device.

    Args:
        model: The training: an `CacheableTraining`.
        device: Where to compute.
        precision: Type to compute in.
        keep: Whether restorations of training images are kept that the training itself does not read.
    """

    def __init__(self, model: Any, device: str, precision: Precision, *, keep: bool) -> None:
        self.model, self.device, self.dtype = model, pick_device(device), getattr(torch, precision)
        for network in model.frozen_networks.values():
            network.eval().to(self.device)
        self.names = {split: model.cached_names(split, pictures=keep) for split in ("train", "val")}

    def fill(self, cache: OutputCache, split: str, loader: Any) -> FillCounts:
        """Write the records of a split that are not there yet.

        Args:
            cache: The folder.
            split: `train` or `val`.
            loader: Batches of the split's images.
        """
        images, computed, seconds = 0, 0, 0.0
        with progress() as bar:
            task = bar.add_task(split, total=len(loader.sampler))
            batch: Batch
            for batch in loader:
                missing = cache.missing(batch.lq, self.names[split])
                if missing:
                    started = time.perf_counter()
                    records = self.frozen_outputs(batch.lq[missing], [batch.key[i] for i in missing], split)
                    for i, image in enumerate(batch.lq[missing]):
                        cache.write(image, {name: values[i] for name, values in records.items()})
                    seconds += time.perf_counter() - started
                images, computed = images + len(batch.key), computed + len(missing)
                bar.advance(task, len(batch.key))
        return FillCounts(images, computed, seconds)

    def frozen_outputs(self, lq: Tensor, keys: list[str], split: str) -> dict[str, Tensor]:
        """Ask about images.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Their names.
            split: `train` or `val`.

        Returns:
            What their records hold, on the CPU: pictures as uint8, everything else as float32.

        Raises:
            ValueError: If an output is not finite.
        """
        lq = lq.to(self.device)
        with torch.no_grad(), inference_precision(self.device, self.dtype, None):
            found = self.model.frozen_outputs(lq, keys, split)
        record = {name: found[name].float().cpu() for name in self.names[split]}
        for name, values in record.items():
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"Expected finite outputs, but {name} of {keys} holds NaN or infinity. Compute in float32, or in "
                    "bfloat16 instead of float16; if that does not help, the weights are damaged."
                )
        for name in PICTURES & record.keys():
            pixels = [torch.from_numpy(to_uint8(image)).permute(2, 0, 1) for image in record[name]]
            record[name] = torch.stack(pixels)
        return record
