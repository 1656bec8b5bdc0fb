"""Small networks with random weights."""

from __future__ import annotations

import pytest
import torch

from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from ctsr_lightning.networks.nano import nano_unet
from ctsr_lightning.networks.velocity import VelocityField
from helpers.small_students import make_student


@pytest.fixture
def student() -> OneStepStudent:
    return make_student()


@pytest.fixture
def tradeoff() -> TradeOff:
    student = make_student()
    velocity = VelocityField(nano_unet(8, widths=(8, 16)))
    torch.nn.init.normal_(velocity.head.weight, std=0.3)
    return TradeOff(student, velocity)
