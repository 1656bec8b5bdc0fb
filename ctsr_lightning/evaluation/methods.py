"""Methods of a comparison, and how they restore."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from torch import Tensor

from ctsr_lightning.evaluation.experts import Expert, blends
from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, REALISTIC, control_label
from ctsr_lightning.images import upsample
from ctsr_lightning.inference.color import correct
from ctsr_lightning.inference.devices import synchronize
from ctsr_lightning.inference.restorer import Restorer

Result = TypeVar("Result")


class Method(NamedTuple):
    """A method that restores images."""

    label: str
    """Name in tables: `t=0.50`, `T_f`, `x (SwinIR)`, `blend α=0.50`, `bicubic`, `restored` for finished files."""
    kind: Literal["ctsr", "teacher", "expert", "blend", "bicubic", "restored"]
    """Its kind."""
    parameter: float | None = None
    """t of `ctsr`, α of `blend`."""


class Restoration(NamedTuple):
    """An image that a method restored."""

    method: Method
    """The method."""
    image: Tensor
    """RGB in [0, 1], shape (1, 3, H, W)."""
    seconds: float | None = None
    """Time to restore this image in this one way."""
    further: float | None = None
    """Time for this way alone, once the pass that all values of t share has been made."""


class Methods:
    """All that restores the images of a comparison: the model at several t, teachers, their blend, experts, bicubic.

    Args:
        restorer: The model.
        controls: Values of t.
        experts: Teachers by label, `T_f` and `T_r`, of which the blend needs both; and others of any name.
        alphas: Shares of T_f in the blend α T_f + (1 - α) T_r.
        bicubic: Whether bicubic enlargement takes part.
    """

    def __init__(
        self,
        restorer: Restorer,
        controls: Sequence[float],
        experts: Mapping[str, Expert] | None = None,
        alphas: Sequence[float] = (),
        *,
        bicubic: bool = True,
    ) -> None:
        self.restorer, self.controls, self.experts = restorer, list(controls), dict(experts or {})
        self.alphas = list(alphas) if {FAITHFUL, REALISTIC} <= self.experts.keys() else []
        self.bicubic = bicubic

    def restore(
        self, lq: Tensor, size: tuple[int, int], seed: int = 0, keys: list[str] | None = None
    ) -> Iterator[Restoration]:
        """Restore an image by every method, one after the other.

        Args:
            lq: RGB in [0, 1], shape (1, 3, h, w).
            size: Height and width of the result, for bicubic enlargement.
            seed: Seed of methods that draw random numbers.
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        from ctsr_lightning.images import enlarge

        lq = lq.to(self.restorer.device)
        if self.bicubic:
            image, seconds = self._timed(lambda: enlarge(lq, lq.new_empty(1, 3, *size)))
            yield Restoration(Method(BICUBIC, "bicubic"), image, seconds)
        ends: dict[str, tuple[Tensor, float]] = {}
        for label, expert in self.experts.items():
            ends[label] = self._timed(partial(self._expertise, expert, lq, seed, keys))
            yield Restoration(Method(label, "teacher" if label in {FAITHFUL, REALISTIC} else "expert"), *ends[label])
        if self.alphas:
            both = ends[FAITHFUL][1] + ends[REALISTIC][1]
            images = blends(ends[FAITHFUL][0], ends[REALISTIC][0], self.alphas)
            for alpha in self.alphas:
                image, seconds = self._timed(lambda: next(images))
                label = f"blend α={control_label(alpha).removeprefix('t=')}"
                yield Restoration(Method(label, "blend", alpha), image, both + seconds, seconds)
        del ends
        self.restorer.seed = seed
        trajectory, shared = self._timed(lambda: self.restorer.trajectory(lq, keys))
        for control in self.controls:
            image, own = self._timed(partial(self.restorer.decode, trajectory, control))
            yield Restoration(Method(control_label(control), "ctsr", control), image, shared + own, own)

    def _expertise(self, expert: Expert, lq: Tensor, seed: int, keys: list[str] | None) -> Tensor:
        """A teacher's restoration, its colours corrected as the model's are."""
        image, color = expert(lq, seed, keys), self.restorer.color
        return image if color == "none" else correct(image, upsample(lq, self.restorer.scale), color)

    def _timed(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Do some work and wait until the device has done it, too."""
        synchronize(self.restorer.device)
        start = time.perf_counter()
        result = work()
        synchronize(self.restorer.device)
        return result, time.perf_counter() - start
