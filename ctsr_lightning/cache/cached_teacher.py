"""A teacher whose restorations are on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets


class CachedTeacher(Teacher):
    """T_f's restorations as `ctsr cache` has kept them, rounded to 8 bits: its networks need not be in memory.

    It stands in for `fidelity` in stage 2, which only asks for restorations, and knows the images of the cache only.
    With `cache` of `CTSRStage2` its outputs are needed for pictures and measurements of validation images alone.

    Args:
        folder: The cache's folder.
        scale: Enlargement, that of the cache.

    Raises:
        FileNotFoundError: If there is no cache in the folder.
        ValueError: If the cache is of another scale.
    """

    def __init__(self, folder: Path, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.output_cache = OutputCache(folder)
        cache_signature = self.output_cache.description()["cache_signature"]
        if cache_signature["scale"] != str(scale):
            raise ValueError(
                f"Expected a cache of scale {scale} in '{folder}', found one of scale {cache_signature['scale']}. Set "
                "the teacher's `scale`, or name another cache."
            )
        self.stands_for: str = cache_signature["fidelity"]
        """The identity of the teacher that has answered."""

    @property
    def multiple(self) -> int:
        """Any size will do that the cache knows."""
        return self.scale

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],
    ) -> TeacherTargets:
        """Refuse: latents are noised anew in every step, so their outputs cannot be kept.

        Raises:
            ValueError: Always.
        """
        del student, gt, condition, gradient, normal
        raise ValueError(
            "CachedTeacher serves stage 2 only, which needs restorations. Stage 1 needs predictions on latents with "
            "new noise in every step: give it the teacher itself."
        )

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the image says it all
        """Read T_f's restorations.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            keys: Not needed.

        Raises:
            ValueError: If the cache does not know an image.
        """
        try:
            (restored,) = self.output_cache.read(lq, "fidelity")
        except ValueError as error:
            raise ValueError(
                f"{error} CachedTeacher knows the images of its cache only; to have others restored, give the teacher "
                "itself, or compare without teachers."
            ) from error
        return restored.to(lq.dtype) / 255.0
