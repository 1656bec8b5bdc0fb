"""The contract of models that restore: a new one is a line in MODELS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

import ctsr_lightning as ctsr
from ctsr_lightning.codecs import KLCodec, LatentCodec
from ctsr_lightning.diffusion.sampling import generator_by_content
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.precision import for_inference
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.timing import WHOLE, measure, parts, points
from ctsr_lightning.models import ControlKind, RestorationModel, TradeOff
from helpers import tiny
from helpers.small_flow import SmallFlow

MODELS: dict[str, Callable[[], RestorationModel]] = {
    "OneStepStudent": tiny.student,
    "OneStepStudent that samples": lambda: tiny.student(codec=KLCodec(tiny.autoencoder()), sample_latent=True),
    "OneStepStudent with adapters": tiny.adapted_student,
    "TradeOff": lambda: TradeOff(tiny.student(), tiny.velocity(3, awake=True)),
    "TradeOff of the paper": lambda: TradeOff(tiny.student(), tiny.velocity(3, awake=True), "reencode"),
    "OneStepFlow": tiny.one_step_flow,
    "MultiStepFlow": lambda: tiny.multi_step_flow(steps=3),
    "FewStepStudent": tiny.few_step,
    "FewStepStudent of one step": lambda: tiny.few_step(steps=[999]),
    "FewStepStudent without noise": lambda: tiny.few_step(temperature=0.0),
    "FewStepStudent from noise": lambda: tiny.few_step(start="noise"),
    "FewStepStudent with a ControlNet": tiny.controlled_student,
    "SmallFlow": SmallFlow,
}
SAMPLED_BY_TILE = {"OneStepStudent that samples"}
"""Models whose random numbers are drawn in `shared`."""


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> RestorationModel:
    return MODELS[name]().double().eval()


def photos(count: int = 1, height: int = 8, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)


def restorer_of(model: RestorationModel, **options: object) -> Restorer:
    return Restorer(model, "cpu", torch.float64, **options)


def controls(model: RestorationModel) -> list[float]:
    return [0.0] if model.control_kind == "none" else [0.0, 0.3, 1.0]


def test_its_description(model: RestorationModel) -> None:
    assert model.scale >= 1
    assert isinstance(model.codec, LatentCodec)
    assert model.control_kind in get_args(ControlKind)
    assert model.multiple % (model.codec.factor * model.cell) == 0  # so that tiles of `at` cover what is padded


def test_steps_make_a_restoration(model: RestorationModel) -> None:
    lq = photos(2, 16, 8)
    grid = (16 * model.scale // model.codec.factor, 8 * model.scale // model.codec.factor)
    shared = model.shared(lq, ["a", "b"])
    begun = model.begin(shared, torch.Generator().manual_seed(0))
    state = model.advance(begun, lq, ["a", "b"])
    assert shared.shape[0] == begun.shape[0] == state.shape[0] == 2
    assert shared.shape[-2:] == begun.shape[-2:] == state.shape[-2:] == grid
    assert model.advances or state is begun
    for t in controls(model):
        latent, image = model.latent_at(state, t), model.at(state, t)
        assert latent.shape == (2, model.codec.channels, *grid)
        assert torch.equal(image, (model.codec.decode(latent) / 2 + 0.5).clamp(0, 1))
        assert image.shape == (2, 3, 16 * model.scale, 8 * model.scale)
        assert not image.requires_grad
    images = [model.at(state, t) for t in controls(model)]
    assert all(not torch.equal(images[0], image) for image in images[1:])


def test_random_numbers_come_from_the_generator_alone(model: RestorationModel) -> None:
    shared = model.shared(photos())
    before = torch.random.get_rng_state()
    first, again, other = (model.begin(shared, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    if not torch.equal(first, other):
        assert model.random
    assert torch.equal(model.advance(first, photos()), model.advance(again, photos()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_restorer_takes_the_steps(model: RestorationModel, name: str) -> None:
    restorer, lq = restorer_of(model, seed=3), photos()
    path = restorer.trajectory(lq)
    for t in controls(model):
        assert torch.equal(restorer.decode(path, t), restorer(lq, t))
    if name not in SAMPLED_BY_TILE:
        begun = restorer.model.begin(restorer.model.shared(lq), generator_by_content(lq[0], 3))
        state = restorer.model.advance(begun, lq)
        assert torch.equal(path.state, state)
        assert torch.equal(restorer(lq, controls(model)[-1]), restorer.model.at(state, controls(model)[-1]))


def test_a_seed_fixes_the_result_and_others_change_it_only_where_a_model_is_random(model: RestorationModel) -> None:
    lq, t = photos(), controls(model)[-1]
    state = torch.random.get_rng_state()
    first, again, other = (restorer_of(model, seed=seed)(lq, t) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) is not model.random
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SAMPLED_BY_TILE], indirect=True)
def test_an_image_does_not_depend_on_its_neighbours(model: RestorationModel) -> None:
    restorer, images = restorer_of(model), photos(3, 7, 9)
    for t in controls(model):
        for i, image in enumerate(restorer(images.flip(0), t).flip(0)):
            torch.testing.assert_close(image, restorer(images[i], t), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(5, 3), (9, 14)])
def test_any_size_and_tile(model: RestorationModel, size: tuple[int, int]) -> None:
    for tile in (0, 4):
        image = restorer_of(model, tile=tile)(photos(1, *size)[0], controls(model)[-1])
        assert image.shape == (3, model.scale * size[0], model.scale * size[1])
        assert image.min() >= 0
        assert image.max() <= 1


def test_values_of_t(model: RestorationModel) -> None:
    restorer, lq = restorer_of(model), photos()
    ramp = torch.linspace(0, 1, 12 * model.scale).expand(8 * model.scale, -1).double()
    for wrong in (-0.1, 1.5, float("nan"), ramp + 0.5):
        with pytest.raises(ValueError, match=r"t in \[0, 1\]"):
            restorer(lq, wrong)
    assert restorer.controllable is (model.control_kind != "none")
    if model.control_kind == "none":
        for t in (0.5, ramp):
            with pytest.raises(ValueError, match="model without a slider"):
                restorer(lq, t)
    elif model.control_kind == "number":
        with pytest.raises(ValueError, match=r"Expected a number t for .* found a map .* time embedding"):
            restorer(lq, ramp)
        assert torch.equal(restorer(lq, torch.tensor(0.5)), restorer(lq, 0.5))
    else:
        torch.testing.assert_close(restorer(lq, torch.full_like(ramp, 0.5)), restorer(lq, 0.5), rtol=0, atol=1e-10)
        assert not torch.allclose(restorer(lq, ramp), restorer(lq, 0.5))


def test_inference_computes_the_same_and_in_the_type_it_is_given(model: RestorationModel, name: str) -> None:
    lq, t = photos(), controls(model)[-1]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if name not in SAMPLED_BY_TILE:
        shared = for_inference(model, torch.float64).shared(lq)
        torch.testing.assert_close(shared, model.shared(lq), rtol=1e-9, atol=1e-9)
    wide = Restorer(model.float(), "cpu")(lq, t)
    narrow = Restorer(model, "cpu", torch.float16)(lq, t)
    assert wide.dtype == narrow.dtype == torch.float32
    assert -10 * (wide - narrow).square().mean().log10() > 45.0
    for key, value in model.double().state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-7)


def test_its_parts_are_measured(model: RestorationModel) -> None:
    restorer, lq = restorer_of(model), photos(2)
    found = parts(restorer, lq)
    names = [part.name for part in found]
    assert len(set(names)) == len(names)
    assert any(part.per_t for part in found)
    modules = set(restorer.model.modules())
    assert all(network in modules for part in found for network in part.networks)
    costs = list(measure(found, restorer.device, 0, 1))
    assert [cost.part for cost in costs] == names
    assert sum(name.startswith(WHOLE) for name in names) == (3 if restorer.controllable else 1)
    ends = points(restorer, lq)
    assert len(ends) == (2 if restorer.controllable else 1)
    for (latent, image), t in zip(ends, (0.0, 1.0), strict=False):
        assert torch.equal(image, restorer(lq, t))
        assert latent.shape[1] == model.codec.channels


@pytest.mark.parametrize("size", [(13, 30), (24, 9)])
def test_tiles_of_a_strided_network_make_up_the_whole(size: tuple[int, int]) -> None:
    """Its tiles are exact where they start at its strides, as the noise is drawn once for the whole image."""

    class Misaligned(SmallFlow):
        cell = 1

    lq = photos(2, *size)
    for t in (0.0, 0.6):
        whole, tiled = (restorer_of(SmallFlow().double(), tile=tile)(lq, t) for tile in (0, 5))
        assert not torch.equal(whole, tiled)  # averaging rounds
        torch.testing.assert_close(whole, tiled, rtol=0, atol=1e-12)
        assert (restorer_of(Misaligned().double(), tile=5)(lq, t) - whole).abs().max() > 0.01


def test_equal_images_have_equal_noise_and_others_their_own() -> None:
    restorer, image = restorer_of(SmallFlow().double()), photos()
    first, second, third = restorer.trajectory(torch.cat([image, image, photos(seed=1)])).state
    assert torch.equal(first, second)
    noise = [(state[:12] - state[12:]) / 0.3 for state in (first, third)]
    assert abs(float((noise[0] * noise[1]).mean())) < 0.15
    assert all(0.85 < float(each.std()) < 1.15 for each in noise)


def test_a_student_of_any_class_is_loaded(tmp_path: Path) -> None:
    """What restores is the training's `student`, whatever training and class it is."""
    trained = SmallFlow(sigma=0.2)
    nn.init.constant_(trained.up.bias, 0.25)
    state = {f"student.{key}": value for key, value in trained.state_dict().items()}
    student = {"class_path": "helpers.small_flow.SmallFlow", "init_args": {"sigma": 0.2}}
    settings = {"_class_path": "ctsr_lightning.modules.NotYetWritten", "student": student}
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "flow.ckpt")
    with ctsr.trusting("helpers"):
        model = load_model(tmp_path / "flow.ckpt")
    assert isinstance(model, SmallFlow)
    lq = photos().float()
    assert torch.equal(Restorer(model, "cpu")(lq, 0.4), Restorer(trained, "cpu")(lq, 0.4))
