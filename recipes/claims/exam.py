"""The examination of `make claims`: fixed test images, restored by the teachers, by their blend, and by students."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ctsr_lightning.batch import Batch
from ctsr_lightning.data.files import find_images
from ctsr_lightning.evaluation.experts import Expert, blends
from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, GRID, REALISTIC
from ctsr_lightning.evaluation.measurements import Measurements, load_batches
from ctsr_lightning.evaluation.methods import Method, Restoration
from ctsr_lightning.evaluation.plots import control_label
from ctsr_lightning.evaluation.setup import benchmark_data
from ctsr_lightning.images import enlarge
from ctsr_lightning.inference.devices import pick_device, torch_device
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.distortion import PSNRY
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.perceptual import PerceptualMetric, perceptual_distance
from recipes.claims.plan import (
    ALPHAS,
    BASE,
    CONTROLS,
    CROP,
    FULL,
    MIXED,
    TEACHERS,
    Variation,
    blend_label,
)
from recipes.claims.records import listing

if TYPE_CHECKING:
    from ctsr_lightning.networks.student import OneStepStudent
    from ctsr_lightning.teachers.base import Teacher

SAMPLE_REPEATS: Final = 4
"""Crops of each sample photograph, of which there are two."""


class Exam:
    """Restores fixed images and measures PSNR-Y, the perceptual distance and grid energy.

    Args:
        test: Folder of photographs; None for the held-out sample photographs.
        device: Lightning's name of an accelerator.
        build: Builds S, T_f and T_r; called once, when they are needed.
    """

    def __init__(
        self, test: Path | None, device: str, build: Callable[[], tuple[OneStepStudent, Teacher, Teacher]]
    ) -> None:
        self.test, self.photos = test, photographs(test)
        self.device: torch.device = pick_device(torch_device(device))
        self.distance: PerceptualDistance = perceptual_distance("squeeze")
        self._build = build
        self._experts: dict[str, Expert] = {}
        self._factor = 0
        self._batches: list[Batch] = []
        self._faithful: dict[str, Tensor] = {}

    def settings(self) -> dict[str, Any]:
        """All that the figures of a given model depend on, as plain values."""
        return {
            "test": listing(self.photos, self.test),
            "crop": CROP,
            "perceptual": {"name": self.distance.name, "definition": self.distance.definition},
            "device": self.device.type,
            "controls": list(CONTROLS),
            "alphas": list(ALPHAS),
        }

    @torch.no_grad()
    def measure(self, variation: Variation, weights: Path) -> list[tuple[str, str, Mapping[str, float]]]:
        """Restore every image and measure the results.

        Args:
            variation: What is examined: the teachers, or a student, as configured also blended with T_f.
            weights: The student's weights.

        Returns:
            Image, method and values, image by image.
        """
        experts = self._teachers()
        metrics = {
            "psnr_y": PSNRY(),
            self.distance.name: PerceptualMetric(self.distance),
            GRID: GridEnergy(self._factor),
        }
        measured = Measurements(metrics, self.device)
        student = None if variation.name == TEACHERS else Restorer(load_model(weights), self.device)
        for batch in self._images():
            assert batch.gt is not None
            if student is None:
                restored = self._baselines(batch, experts)
            else:
                restored = self._sweep(batch, student, mixed=variation.name in {BASE, FULL})
            for restoration in restored:
                measured.add(batch.key[0], restoration, batch.gt)
        return [(row.key, row.method.label, row.values) for row in measured.rows]

    def _baselines(self, batch: Batch, experts: Mapping[str, Expert]) -> Iterator[Restoration]:
        """Bicubic enlargement, the teachers and their blend."""
        assert batch.gt is not None
        yield Restoration(Method(BICUBIC, "bicubic"), enlarge(batch.lq, batch.gt))
        ends = self._faithfully(batch), experts[REALISTIC](batch.lq, keys=batch.key)
        for label, image in zip((FAITHFUL, REALISTIC), ends, strict=True):
            yield Restoration(Method(label, "teacher"), image)
        for alpha, image in zip(ALPHAS, blends(*ends, list(ALPHAS)), strict=True):
            yield Restoration(Method(blend_label(alpha), "blend", alpha), image)

    def _sweep(self, batch: Batch, student: Restorer, *, mixed: bool) -> Iterator[Restoration]:
        """A student at every t that it has, and, with `mixed`, the blend of its image at t = 0 with T_f's."""
        trajectory = student.trajectory(batch.lq, batch.key)
        controls = CONTROLS if student.controllable else CONTROLS[:1]
        images = [student.decode(trajectory, control) for control in controls]
        for control, image in zip(controls, images, strict=True):
            yield Restoration(Method(control_label(control), "ctsr", control), image)
        if mixed and student.controllable:
            inner = list(CONTROLS[1:-1])
            for alpha, image in zip(inner, blends(self._faithfully(batch), images[0], inner), strict=True):
                yield Restoration(Method(f"{MIXED}{alpha:.1f}", "blend", alpha), image)

    def _images(self) -> Sequence[Batch]:
        """The test images with their ground truth, degraded once."""
        if not self._batches:
            repeats = SAMPLE_REPEATS if self.test is None else 1
            scale = self._teachers()[FAITHFUL].scale
            module, _ = benchmark_data(scale, None, self.test, crop=CROP, repeats=repeats)
            self._batches = list(load_batches(module)[0])
        return self._batches

    def _teachers(self) -> Mapping[str, Expert]:
        if not self._experts:
            student, faithful, realistic = self._build()
            self._factor = student.codec.factor
            self._experts = {
                label: Expert(teacher, self.device) for label, teacher in ((FAITHFUL, faithful), (REALISTIC, realistic))
            }
        return self._experts

    def _faithfully(self, batch: Batch) -> Tensor:
        """T_f's restoration, made once."""
        (key,) = batch.key
        if key not in self._faithful:
            self._faithful[key] = self._teachers()[FAITHFUL](batch.lq, keys=batch.key)
        return self._faithful[key]


def photographs(folder: Path | None) -> list[Path]:
    """The photographs of a folder, none of the sample photographs.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: If it does not exist or holds no image.
    """
    return [] if folder is None else [path for _, path in find_images([folder])]
