"""The frozen networks of stage 2, asked about one batch after the other for `ctsr cache`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ctsr_lightning.commands.options import Precision, progress
from ctsr_lightning.images import to_uint8
from ctsr_lightning.inference.restorer import computing, pick_device
from ctsr_lightning.networks.answers import Answers

if TYPE_CHECKING:
    from ctsr_lightning.batch import Batch


class Tally(NamedTuple):
    """What was done for one split."""

    images: int
    """Images of this process's share."""
    computed: int
    """Those of them that the networks were asked about."""
    seconds: float
    """Time of that, without making the images."""


class Asker:
    """The frozen networks of a stage 2, on the device where they are asked.

    Args:
        model: The `Controllable`.
        device: Where to compute.
        precision: Type to compute in.
        keep: Whether T_f's restorations of training images are kept.
    """

    def __init__(self, model: Any, device: str, precision: Precision, *, keep: bool) -> None:
        self.model, self.device, self.dtype = model, pick_device(device), getattr(torch, precision)
        self.student = model.student.to(self.device).network
        model.fidelity.eval().to(self.device)
        prompt = ["prompt"] if self.student.prompt.varies else []
        latents = ["z_l", "z_0", "z_1"]
        self.names = {"train": [*latents, *(["fidelity"] if keep else []), *prompt], "val": ["fidelity", *prompt]}

    def fill(self, answers: Answers, split: str, loader: Any) -> Tally:
        """Write the records of a split that are not there yet.

        Args:
            answers: The folder.
            split: `train` or `val`.
            loader: Batches of the split's images.
        """
        images, computed, seconds = 0, 0, 0.0
        with progress() as bar:
            task = bar.add_task(split, total=len(loader.sampler))
            batch: Batch
            for batch in loader:
                lacking = answers.lacking(batch.lq, self.names[split])
                if lacking:
                    started = time.perf_counter()
                    records = self.ask(batch.lq[lacking], [batch.key[i] for i in lacking], split)
                    for i, image in enumerate(batch.lq[lacking]):
                        answers.write(image, {name: values[i] for name, values in records.items()})
                    seconds += time.perf_counter() - started
                images, computed = images + len(batch.key), computed + len(lacking)
                bar.advance(task, len(batch.key))
        return Tally(images, computed, seconds)

    def ask(self, lq: Tensor, keys: list[str], split: str) -> dict[str, Tensor]:
        """Ask about images.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Their names.
            split: `train`, or `val`, of which only T_f's restorations and the prompts are needed.

        Returns:
            What their records hold, on the CPU: restorations as uint8, everything else as float32.

        Raises:
            ValueError: If an answer is not finite.
        """
        lq = lq.to(self.device)
        with torch.no_grad(), computing(self.device, self.dtype, None):
            if split == "train":
                found = self.model.ask(lq, keys)
            else:
                found = {"fidelity": self.model.fidelity.restore(lq, keys), "prompt": self.student.prompt(lq, keys)}
        record = {name: found[name].float().cpu() for name in self.names[split]}
        for name, values in record.items():
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"Expected finite answers, but {name} of {keys} holds NaN or infinity. Compute in float32, or in "
                    "bfloat16 instead of float16; if that does not help, the weights are damaged."
                )
        if "fidelity" in record:
            pixels = [torch.from_numpy(to_uint8(image)).permute(2, 0, 1) for image in record["fidelity"]]
            record["fidelity"] = torch.stack(pixels)
        return record
