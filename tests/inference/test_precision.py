"""Models made ready for inference: the same function, merged and in the type they compute in."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from ctsr_lightning.inference.precision import for_inference
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent, TradeOff
from ctsr_lightning.networks import LoRA
from ctsr_lightning.networks.lora import adapters_of, merged
from ctsr_lightning.networks.sharing import share
from helpers import tiny


def full_size_layout(timestep: int = 999, z0_source: str = "latent") -> TradeOff:
    """Adapters everywhere, as at full size."""
    velocity = tiny.velocity(unet=tiny.prompted_unet(), lora=LoRA(), awake=True)
    return TradeOff(tiny.adapted_student(timestep=timestep), velocity, z0_source)


def photo() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def types(module: nn.Module) -> set[torch.dtype]:
    return {p.dtype for p in module.parameters()}


@pytest.mark.parametrize("z0_source", ["latent", "reencode"])
def test_merged_is_the_same_function(z0_source: str) -> None:
    model = full_size_layout(z0_source=z0_source).double()
    ready, lq = for_inference(model, torch.float64), photo().double()
    assert not adapters_of(ready)
    assert adapters_of(model.student.unet)
    torch.testing.assert_close(ready.shared(lq), model.shared(lq), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ready.student.encode(lq), model.student.encode(lq), rtol=0, atol=0)  # E without adapters


def test_the_model_stays_as_it_is() -> None:
    model = full_size_layout()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    Restorer(model.train(), "cpu", torch.float16)(photo()[0], [0.0, 1.0])
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_types_of_the_networks() -> None:
    half, brain = (Restorer(full_size_layout(), "cpu", dtype) for dtype in (torch.float16, torch.bfloat16))
    networks = (half.model.student.unet, half.model.codec, half.model.velocity.unet)
    assert [types(network) for network in networks] == [{torch.float16}] * 3
    encoder, decoder = brain.model.codec.halves()
    assert types(brain.model.student.unet) | types(encoder[0]) == {torch.float32}  # what t = 999 amplifies
    assert types(brain.model.velocity.unet) == types(decoder[0]) == {torch.bfloat16}
    early = Restorer(full_size_layout(timestep=250), "cpu", torch.bfloat16)
    assert types(early.model.student.unet) == types(early.model.codec) == {torch.bfloat16}


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 50.0), (torch.bfloat16, 38.0)])
def test_half_precision_keeps_the_picture(dtype: torch.dtype, least: float) -> None:
    model, lq = full_size_layout(), photo()[0]
    expected, found = (Restorer(model, "cpu", kind)(lq, [0.0, 1.0]) for kind in (torch.float32, dtype))
    for wide, narrow in zip(expected, found, strict=True):
        assert narrow.dtype == torch.float32
        assert wide.std() > 0.01
        assert -10 * (wide - narrow).square().mean().log10() > least


def test_a_codec_of_unknown_halves_stays_in_float32() -> None:
    student = tiny.student()
    student.codec.halves = lambda: ([], [])  # as of a class that says nothing
    restorer = Restorer(student, "cpu", torch.float16)
    assert types(restorer.model.codec) == {torch.float32}
    assert types(restorer.model.unet) == {torch.float16}
    assert restorer(photo()[0]).dtype == torch.float32


def test_a_shared_base_is_let_go() -> None:
    unet = share("precision of inference", tiny.prompted_unet)
    base = weakref.ref(unet.conv_out.weight)
    restorer = Restorer(
        OneStepStudent(unet, tiny.nano_codec(), lora=LoRA(), prompt=tiny.TinyPrompt()), "cpu", torch.float16
    )
    del unet
    gc.collect()
    assert base() is None
    assert restorer(photo()[0]).isfinite().all()


def test_several_adapters_add_up() -> None:
    student = tiny.adapted_student(lora=LoRA(sets=("pix", "sem")), encoder_lora=None)
    unet, lq = student.unet.double(), torch.rand(1, 4, 4, 4, dtype=torch.float64)
    words = torch.rand(1, 2, 6, dtype=torch.float64)
    found, expected = (network(lq, torch.tensor([1.0]), words).sample for network in (merged(unet), unet))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert len(adapters_of(unet)) == 6
