"""A restorer of toy networks in the place of the model that commands read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctsr_lightning.codecs.codec import NanoCodec
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from ctsr_lightning.networks.nano import nano_unet
from ctsr_lightning.networks.velocity import VelocityField


@pytest.fixture(scope="module")
def _toy() -> Any:
    patched = pytest.MonkeyPatch()
    torch.manual_seed(0)
    widths = (16, 32)  # with fewer, groups of a single channel have no deviation in an image of one latent
    student = OneStepStudent(nano_unet(8, widths=widths), NanoCodec(8, 8), timestep=250)
    model = TradeOff(student, VelocityField(nano_unet(8, widths=widths)), "latent")

    def load(checkpoint: object, *, tile: int | None, color: Any = "none", **_: object) -> Restorer:
        return Restorer(model, "cpu", tile=tile, color=color)

    patched.setattr("ctsr_lightning.commands.upscale.load_restorer", load)
    yield
    patched.undo()
