"""Methods of a comparison, and how they restore."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from ctsr_lightning.evaluation.experts import Expert, blends
from ctsr_lightning.evaluation.labels import (
    BICUBIC,
    BLEND,
    CTSR,
    FAITHFUL,
    IN_STEPS,
    INPUT,
    OWN_ENDS,
    REALISTIC,
    control_label,
    unrestored_label,
)
from ctsr_lightning.images import upsample
from ctsr_lightning.inference.color import correct
from ctsr_lightning.inference.devices import synchronize
from ctsr_lightning.inference.restorer import Restorer

Result = TypeVar("Result")


class Method(NamedTuple):
    """A method that restores images."""

    label: str
    """Name in tables: `t=0.50`, `T_f`, `x (SwinIR)`, `blend α=0.50`, a rival's `NAME t=0.50`, `bicubic`, `restored`."""
    kind: Literal["ctsr", "rival", "steps", "teacher", "expert", "blend", "bicubic", "restored"]
    """Its kind: the model or a rival at a value of t, a rival at a number of steps; `restored` for finished files."""
    parameter: float | None = None
    """t of `ctsr` and `rival`, number of `steps`, α of `blend`."""
    curve: str = ""
    """Name of the curve on which it lies; empty for a single point."""


class Restoration(NamedTuple):
    """An image that a method restored."""

    method: Method
    """The method."""
    image: Tensor
    """RGB in [0, 1], shape (1, 3, H, W)."""
    seconds: float | None = None
    """Time to restore this image in this one way."""
    further: float | None = None
    """Time for this way alone, once the pass that all values of t (the ends that all α) share has been made."""
    runs: int = 1
    """Number of seeds, from 0, with which the method restores each image."""


class Methods:
    """All that restores the images of a comparison: the model at several t, teachers, their blend, experts, bicubic.

    Rivals are further models: at every t where they have a slider, at numbers of steps where these are given and
    `Restorer.model` has an attribute `steps` (and `most_steps`, if there is a largest number), else once. Beside
    rivals, the images at t = 0 and t = 1 of every model are blended as well.

    Args:
        restorer: The model.
        controls: Values of t.
        experts: Teachers by label, `T_f` and `T_r`, of which the blend needs both; and others of any name.
        alphas: Shares of T_f in the blend α T_f + (1 - α) T_r, and of t = 1 in that of a model's own ends.
        bicubic: Whether bicubic enlargement takes part; at scale 1, where it changes nothing, it is called `input`.
        name: Name of the model's curve.
        rivals: Rivals by name.
        steps: Numbers of steps, for rivals that have a choice, as far as each has them.
        seeds: Runs of all methods but rivals.
        rival_seeds: Runs of rivals.

    Raises:
        ValueError: If a rival has another scale or a name that is taken, numbers of steps are given and no rival has
            so many, or a number is less than 1.
    """

    def __init__(
        self,
        restorer: Restorer,
        controls: Sequence[float],
        experts: Mapping[str, Expert] | None = None,
        alphas: Sequence[float] = (),
        *,
        bicubic: bool = True,
        name: str = CTSR,
        rivals: Mapping[str, Restorer] | None = None,
        steps: Sequence[int] = (),
        seeds: int = 1,
        rival_seeds: int = 1,
    ) -> None:
        self.restorer, self.controls, self.experts = restorer, list(controls), dict(experts or {})
        self.alphas, self.bicubic, self.name = list(alphas), bicubic, name
        self.rivals, self.steps, self.seeds, self.rival_seeds = dict(rivals or {}), list(steps), seeds, rival_seeds
        taken = {name, BICUBIC, INPUT, FAITHFUL, REALISTIC, BLEND, *self.experts}
        for label, rival in self.rivals.items():
            if label in taken or OWN_ENDS in label or not label:
                raise ValueError(f"Expected a name of its own for each rival, found '{label}'. Give it another one.")
            if rival.scale != restorer.scale:
                raise ValueError(
                    f"Expected rivals of the model's scale, x{restorer.scale}, found '{label}' of x{rival.scale}. "
                    "Leave it out."
                )
        lists = [self._numbers(rival) for rival in self.rivals.values()]
        if low := [number for number in (seeds, rival_seeds, *self.steps) if number < 1]:
            raise ValueError(f"Expected numbers of seeds and steps of at least 1, found {low[0]}.")
        if wrong := [number for number in self.steps if not any(number in numbers for numbers in lists)]:
            raise ValueError(
                f"Expected numbers of steps that a rival has, found {wrong[0]}, which none has. Leave it out, or name "
                "a rival that restores in so many steps."
            )

    @property
    def runs(self) -> int:
        """Number of seeds for which `restore` has results."""
        return max(self.seeds, self.rival_seeds) if self.rivals else self.seeds

    def restore(
        self, lq: Tensor, size: tuple[int, int], seed: int = 0, keys: list[str] | None = None
    ) -> Iterator[Restoration]:
        """Restore an image by every method that has a run with this seed, one after the other.

        Args:
            lq: RGB in [0, 1], shape (1, 3, h, w).
            size: Height and width of the result, for bicubic enlargement.
            seed: Seed of methods that draw random numbers.
            keys: Names of the images as in `Batch.key`, for prompts by name.
        """
        lq = lq.to(self.restorer.device)
        if seed < self.seeds:
            own = self._swept(self.name, self.restorer, lq, seed, keys)
            for restored in chain(self._baselines(lq, size, seed, keys), own):
                yield restored._replace(runs=self.seeds)
        if seed < self.rival_seeds:
            for name, rival in self.rivals.items():
                for restored in self._rivalling(name, rival, lq, seed, keys):
                    yield restored._replace(runs=self.rival_seeds)

    def _baselines(self, lq: Tensor, size: tuple[int, int], seed: int, keys: list[str] | None) -> Iterator[Restoration]:
        """Bicubic enlargement, teachers and other experts, the blend of the teachers."""
        from ctsr_lightning.images import enlarge

        if self.bicubic:
            image, seconds = self._timed(lambda: enlarge(lq, lq.new_empty(1, 3, *size)))
            yield Restoration(Method(unrestored_label(self.restorer.scale), "bicubic"), image, seconds)
        ends: dict[str, tuple[Tensor, float]] = {}
        for label, expert in self.experts.items():
            ends[label] = self._timed(partial(self._expertise, expert, lq, seed, keys))
            yield Restoration(Method(label, "teacher" if label in {FAITHFUL, REALISTIC} else "expert"), *ends[label])
        if {FAITHFUL, REALISTIC} <= ends.keys():
            (faithful, one), (realistic, other) = ends[FAITHFUL], ends[REALISTIC]
            yield from self._blended(BLEND, faithful, realistic, one + other)

    def _swept(
        self, name: str, restorer: Restorer, lq: Tensor, seed: int, keys: list[str] | None
    ) -> Iterator[Restoration]:
        """The model, or a rival, at every t, and the blend of its own ends."""
        restorer.seed = seed
        trajectory, shared = self._timed(lambda: restorer.trajectory(lq, keys))
        ends: dict[float, tuple[Tensor, float]] = {}
        for control in self.controls:
            image, own = self._timed(partial(restorer.decode, trajectory, control))
            if self.rivals and control in {0.0, 1.0}:
                ends[control] = image, own
            method = Method(control_label(control), "ctsr", control, name)
            if restorer is not self.restorer:
                method = method._replace(label=f"{name} {method.label}", kind="rival")
            yield Restoration(method, image, shared + own, own)
        if len(ends) == 2:
            (realistic, one), (faithful, other) = ends[0.0], ends[1.0]
            yield from self._blended(f"{name}{OWN_ENDS}", faithful, realistic, shared + one + other)

    def _rivalling(
        self, name: str, rival: Restorer, lq: Tensor, seed: int, keys: list[str] | None
    ) -> Iterator[Restoration]:
        """A rival at every t, and at every number of steps; once, if it has neither."""
        numbers = self._numbers(rival)
        if rival.controllable:
            yield from self._swept(name, rival, lq, seed, keys)
        rival.seed = seed
        model: Any = rival.model
        own, curve = getattr(model, "steps", None), f"{name}{IN_STEPS}" if rival.controllable else name
        for number in numbers:
            model.steps = number
            method = Method(f"{name} {number} step{'s' * (number > 1)}", "steps", number, curve)
            yield Restoration(method, *self._timed(lambda: rival.decode(rival.trajectory(lq, keys))))
        if numbers:
            model.steps = own
        elif not rival.controllable:
            yield Restoration(Method(name, "rival"), *self._timed(lambda: rival.decode(rival.trajectory(lq, keys))))

    def _blended(self, curve: str, faithful: Tensor, realistic: Tensor, ends: float) -> Iterator[Restoration]:
        """Blends of two images, whose restoration took `ends` seconds."""
        images = blends(faithful, realistic, self.alphas)
        for alpha in self.alphas:
            image, seconds = self._timed(lambda: next(images))
            label = f"{'blend' if curve == BLEND else curve} α={control_label(alpha).removeprefix('t=')}"
            yield Restoration(Method(label, "blend", alpha, curve), image, ends + seconds, seconds)

    def _numbers(self, rival: Restorer) -> list[int]:
        """The numbers of steps at which a rival is measured."""
        most = getattr(rival.model, "most_steps", math.inf)
        return [number for number in self.steps if number <= most] if hasattr(rival.model, "steps") else []

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
