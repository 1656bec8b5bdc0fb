"""Published restoration networks as teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.networks.expert_network import read_expert
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.teachers.base import Gradient, Teacher, TeacherTargets


class ExpertTeacher(Teacher):
    """T_f or T_r from the published file of any restoration network that spandrel knows.

    Real-ESRGAN, SwinIR, HAT, DAT, SPAN and many more, as .pth or .safetensors. An expert restores, which is all that
    stage 2 asks of T_f and T_r; it has no score, which stage 1 asks for. `OneStepTraining` with the expert as its
    `target` distils it into a network that has one.

    Args:
        file: Weights of the network; architecture and settings are found out from them.
        scale: Enlargement, that of the student and of the data; 1 for denoisers and the like.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is no restoration network of RGB images, or one of another scale.
    """

    def __init__(self, file: Path, scale: int = 4) -> None:
        super().__init__()
        network = read_expert(file)
        if network.scale != scale:
            raise ValueError(
                f"Expected a network for x{scale} in '{network.file}', found {network.architecture} for "
                f"x{network.scale}. Name its release for x{scale}, or set the teacher's `scale`, the student's and "
                f"the data's to {network.scale}."
            )
        self.frozen, self.scale = Frozen(network), scale

    @property
    def multiple(self) -> int:
        """Sides of a restored image for which `restore` need not pad are multiples of this many pixels."""
        return self.frozen.network.multiple

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],
    ) -> TeacherTargets:
        """Refuse: a network that maps images to images says nothing about noised latents.

        Raises:
            ValueError: Always.
        """
        del student, gt, condition, gradient, normal
        network = self.frozen.network
        raise ValueError(
            f"{network.architecture} of '{network.file}' restores images and has no score, so no prediction for Eq. 2 "
            "and 3 of stage 1. Stage 2 can use it as it is, as T_f and T_r. For stage 1 distil it first: "
            "train OneStepTraining with it as `target`, and give stage 1 the result as a OneStepTeacher."
        )

    @torch.no_grad()
    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:  # noqa: ARG002  # the interface
        """Run the network, image by image."""
        restored: Tensor = self.frozen.network(lq, self.seed)
        return restored
