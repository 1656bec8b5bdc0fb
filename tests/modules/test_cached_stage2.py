"""Stage 2 with a cache: the same losses, from the velocity field alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctsr_lightning.batch import Batch
from ctsr_lightning.cache import CachedPrompt, CachedTeacher
from ctsr_lightning.cache.fill import CacheFiller
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import quantize
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from ctsr_lightning.modules import CTSRStage2
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.prompts import FixedPrompt
from ctsr_lightning.teachers import ResShiftTeacher
from helpers import tiny

LQ = quantize(tiny.batch(4).lq)
BATCH = Batch(LQ, None, ["a", "b", "c", "d"])


def plain(**options) -> CTSRStage2:
    return CTSRStage2(
        **{
            "student": tiny.student(),
            "velocity": tiny.velocity(4, awake=True, condition_on_lq=True),
            "fidelity": tiny.fidelity_teacher(),
            **options,
        }
    )


def prompted(**options) -> CTSRStage2:
    velocity = tiny.velocity(awake=True, unet=tiny.prompted_unet())
    return plain(**{"student": tiny.adapted_student(), "velocity": velocity, **options})


def filled(folder: Path, module: CTSRStage2) -> Path:
    """A cache of all images, asked about in one batch."""
    cache = OutputCache(folder)
    cache.open(module.cache_signature(), {"pool": 4})
    batch = SimpleNamespace(lq=LQ, key=BATCH.key)
    loader = type("Loader", (list,), {"sampler": range(4)})([batch])
    assert CacheFiller(module, "cpu", "float32", keep=True).fill(cache, "train", loader).computed == 4
    return folder


def loss(module: CTSRStage2, order=(0, 1, 2, 3)) -> torch.Tensor:
    module.draws = Draws(3)
    batch = Batch(LQ[list(order)], None, [BATCH.key[i] for i in order])
    (value,) = module.losses(batch).values()
    return value


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ask the student or T_f."""

    def refuse(*args, **options):
        raise AssertionError("asked")

    for owner, name in ((OneStepStudent, "start"), (OneStepStudent, "encode"), (OneStepStudent, "latent"),
                        (TradeOff, "start"), (ResShiftTeacher, "restore")):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse)


@pytest.mark.slow
@pytest.mark.parametrize("z0_source", ["latent", "reencode"])
@pytest.mark.parametrize("make", [plain, prompted])
def test_losses_are_the_same(make, z0_source, tmp_path: Path, request) -> None:
    folder = filled(tmp_path, make(z0_source=z0_source))
    mixed = (2, 0, 3, 1)
    together, apart = (loss(make(z0_source=z0_source), order).item() for order in ((0, 1, 2, 3), mixed))
    request.getfixturevalue("asleep")
    cached = make(z0_source=z0_source, cache=folder)
    assert loss(cached).item() == pytest.approx(together, rel=1e-5)  # as far as other kernels sum in another order
    assert loss(cached, mixed).item() == pytest.approx(apart, rel=1e-5)
    assert abs(together - apart) > 1e-4 * together
    loss(cached).backward()
    trained = {name for name, p in cached.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in cached.named_parameters() if p.requires_grad}
    assert cached.trimmed_state().keys() == make().trimmed_state().keys()


def test_prompts_of_single_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path, prompted())
    expected = loss(prompted())
    monkeypatch.setattr(tiny.TinyPrompt, "forward", None)
    torch.testing.assert_close(loss(prompted(cache=folder)), expected, rtol=1e-5, atol=0)
    student = tiny.adapted_student(prompt=CachedPrompt(folder))
    module = prompted(student=student, cache=folder, fidelity=CachedTeacher(folder))
    torch.testing.assert_close(loss(module), expected, rtol=1e-5, atol=0)
    module.output_cache.check(module.cache_signature())
    assert module.restore(LQ).shape == (4, 3, 32, 32)


@pytest.mark.slow
def test_a_prompt_for_all_images_is_not_kept(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embedding": torch.ones(2, 6)}, tmp_path / "one.safetensors")

    def make(**options):
        return prompted(student=tiny.adapted_student(prompt=FixedPrompt(tmp_path / "one.safetensors")), **options)

    folder = filled(tmp_path / "cache", make())
    with pytest.raises(ValueError, match=r"found fidelity, z_0, z_1, z_l only"):
        OutputCache(folder).read(LQ, "prompt")
    torch.testing.assert_close(loss(make(cache=folder)), loss(make()), rtol=1e-5, atol=0)


def test_training_is_the_same(tmp_path: Path, request) -> None:
    folder = filled(tmp_path, plain())
    trained = []
    for options in ({}, {"cache": folder}, {"cache": folder, "fidelity": CachedTeacher(folder)}):
        if options:
            request.getfixturevalue("asleep")
        # Adam would take steps of full size in directions that are rounding alone.
        module = plain(**options, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        before = {name: value.clone() for name, value in module.trimmed_state().items()}
        tiny.fit(module, torch.utils.data.DataLoader([BATCH] * 3, batch_size=None), max_steps=3)
        trained.append({name: value - before[name] for name, value in module.trimmed_state().items()})
    largest = max(change.abs().max() for change in trained[0].values())
    assert largest > 1e-3
    for other in trained[1:]:
        for name, change in trained[0].items():
            torch.testing.assert_close(other[name], change, rtol=0, atol=1e-4 * float(largest))


OTHERS = {
    "student": lambda: plain(student=tiny.student(1)),
    "fidelity": lambda: plain(fidelity=tiny.fidelity_teacher(1)),
    "z0_source": lambda: plain(z0_source="reencode"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_cache_of_others_is_refused(name: str, tmp_path: Path) -> None:
    folder = filled(tmp_path, OTHERS[name]())
    with pytest.raises(ValueError, match=rf"those of others \({name}: '.*', not '[^;]*'\)"):
        tiny.fit(plain(cache=folder), max_steps=1)


def test_an_image_beside_the_cache_is_explained(tmp_path: Path) -> None:
    module = plain(cache=filled(tmp_path, plain()))
    with pytest.raises(ValueError, match=r"no cached output for this image of 8x8 pixels .* \(it holds 4\).* pool 4"):
        module.losses(Batch(LQ.flip(-1), None, BATCH.key))


def test_a_missing_cache_stops_a_training_only(tmp_path: Path) -> None:
    module = plain(cache=tmp_path / "none")
    assert module.restore(LQ).shape == (4, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match=r"found no cache.json"):
        tiny.fit(module, max_steps=1)
