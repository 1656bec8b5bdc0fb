"""Null on the command line, at every depth of a configuration."""

from __future__ import annotations

import pytest

from ctsr_lightning.configs import take_nulls
from ctsr_lightning.training import training_cli

UNET = "ctsr_lightning.networks.nano_unet"


def test_words_that_set_something_to_null() -> None:
    words = ["fit", "--config", "x.yaml", "--a.b.c", "null", "--a.b.d=~", "--a.b", "null", "--a.b.e", "3", "--f=null"]
    assert take_nulls(words) == (
        ["fit", "--config", "x.yaml", "--a.b", "null", "--a.b.e", "3", "--f=null"],
        ["a.b.c", "a.b.d"],
    )


def test_null_deep_in_a_configuration_is_no_text() -> None:
    model = ["--model=OneStepTraining", "--model.student=OneStepStudent", f"--model.student.unet={UNET}"]
    words = [*model, "--model.student.codec=NanoCodec", "--data=RealESRGANDataModule", "--trainer.accelerator=cpu"]
    words += ["--model.reconstruction.perceptual=TextureDistance", f"--model.prior={UNET}", f"--model.critic={UNET}"]
    nulls = ["--model.student.unet.weights", "null", "--model.student.codec.init_args.weights=null"]
    config = training_cli([*words, *nulls], run=False).config
    student = config.model.init_args.student.init_args
    assert student.unet.init_args.weights is None
    assert student.codec.init_args.weights is None
    with pytest.raises(ValueError, match=r"Expected a setting in --model\.student\.unet\.weight, found none"):
        training_cli([*words, "--model.student.unet.weight=null"], run=False)
