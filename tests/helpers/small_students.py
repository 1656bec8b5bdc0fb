"""A student with random weights."""

from __future__ import annotations

import torch

from ctsr_lightning.codecs.codec import NanoCodec
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.networks.nano import nano_unet


def make_student(scale: int = 4) -> OneStepStudent:
    torch.manual_seed(0)
    codec = NanoCodec(channels=8, width=8)
    torch.nn.init.normal_(codec.decoder.fine[-1].weight, std=0.02)  # so that the convolutions take part
    return OneStepStudent(nano_unet(8, widths=(8, 16)), codec, scale, timestep=250)
