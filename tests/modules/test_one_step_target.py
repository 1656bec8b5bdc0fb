"""Distillation of an expert's pictures into a student, with and without a cache of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctsr_lightning.batch import Batch
from ctsr_lightning.cache.fill import CacheFiller
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import quantize
from ctsr_lightning.modules import OneStepTraining
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.teachers import ExpertTeacher, OneStepTeacher
from helpers import tiny, tiny_experts

TERMS = {"lambda_grid": 1.0, "lambda_l1": 1.0, "symmetries": True, "random_views": True}
LQ = quantize(tiny.batch(4).lq)
BATCH = Batch(LQ, None, ["a", "b", "c", "d"])


def one_step(**options) -> OneStepTraining:
    return OneStepTraining(
        **{
            "student": tiny.student(seed=2),
            "target": tiny_experts.expert_teacher(),
            "lambda_vsd": 0.0,
            **tiny.nested({**TERMS, **options}),
        }
    )


def losses(module: OneStepTraining, batch: Batch = BATCH) -> dict[str, torch.Tensor]:
    module.draws = Draws(3)
    return module.losses(batch)


def filled(folder: Path, module: OneStepTraining) -> Path:
    """A cache of all images, asked about in one batch."""
    cache = OutputCache(folder)
    cache.open(module.cache_signature(), {"pool": 4})
    loader = type("Loader", (list,), {"sampler": range(4)})([SimpleNamespace(lq=LQ, key=BATCH.key)])
    assert CacheFiller(module, "cpu", "float32", keep=False).fill(cache, "train", loader).computed == 4
    return folder


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ask the expert."""

    def refuse(*args, **options):
        raise AssertionError("asked")

    monkeypatch.setattr(ExpertTeacher, "restore", refuse)


def test_the_target_takes_the_place_of_ground_truth() -> None:
    pictures = quantize(tiny_experts.expert_teacher().restore(LQ))
    by_truth = losses(one_step(target=None), Batch(LQ, pictures, BATCH.key))
    by_target = losses(one_step())
    assert list(by_target) == ["rec/l2", "rec/l1", "rec/lpips", "rec/grid"]
    assert all(torch.equal(by_target[name], value) for name, value in by_truth.items())
    misled = losses(one_step(), Batch(LQ, torch.zeros_like(pictures), BATCH.key))
    assert all(torch.equal(misled[name], value) for name, value in by_truth.items())


def test_vsd_stays_as_it_is() -> None:
    networks = {"prior": tiny.unet(seed=5), "critic": tiny.unet(seed=6), "lambda_vsd": 1.0, "random_views": False}
    truth = Batch(LQ, tiny.batch(4).gt, BATCH.key)
    by_truth, by_target = (losses(one_step(**networks, **o), truth) for o in ({"target": None}, {}))
    for name in ("vsd", "critic/denoise"):
        assert torch.equal(by_truth[name], by_target[name])
    assert not torch.equal(by_truth["rec/l2"], by_target["rec/l2"])


def test_losses_are_the_same_bits_with_a_cache(tmp_path: Path, request) -> None:
    folder, plain = filled(tmp_path, one_step()), losses(one_step())
    order = [2, 0, 3, 1]
    mixed = Batch(LQ[order], None, [BATCH.key[i] for i in order])
    apart = losses(one_step(), mixed)
    request.getfixturevalue("asleep")
    for batch, expected in ((BATCH, plain), (mixed, apart)):
        found = losses(one_step(cache=folder), batch)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_training_is_the_same_with_a_cache(tmp_path: Path, request) -> None:
    folder, trained = filled(tmp_path, one_step()), []
    for options in ({}, {"cache": folder}):
        if options:
            request.getfixturevalue("asleep")
        module = one_step(**options)
        tiny.fit(module, torch.utils.data.DataLoader([BATCH] * 3, batch_size=None), max_steps=3)
        trained.append(module.trimmed_state())
    assert trained[0].keys() == {f"student.unet.{name}" for name, _ in tiny.unet().named_parameters()}
    assert all(torch.equal(trained[1][name], value) for name, value in trained[0].items())


@pytest.mark.slow
def test_training_comes_nearer_to_the_expert() -> None:
    module = one_step(lambda_grid=0.0, symmetries=False, optimizer=lambda groups: torch.optim.AdamW(groups, lr=2e-3))
    before = losses(module)["rec/l2"].item()
    tiny.fit(module, torch.utils.data.DataLoader([BATCH] * 60, batch_size=None), max_steps=60)
    assert losses(module)["rec/l2"].item() < 0.5 * before


def test_the_distilled_network_has_a_score() -> None:
    from ctsr_lightning.modules import CTSRStage1

    distilled = OneStepTeacher(one_step().student)
    stage_1 = CTSRStage1(tiny.student(), tiny.fidelity_teacher(), distilled, tiny.reconstruction())
    stage_1.draws = Draws(3)
    assert {"realness/align", "realness/prior"} <= stage_1.losses(tiny.batch()).keys()


def test_the_cache_of_another_expert_is_refused(tmp_path: Path) -> None:
    folder = filled(tmp_path, one_step())
    other = one_step(cache=folder, target=tiny_experts.expert_teacher(tiny_experts.compact(seed=1)))
    with pytest.raises(ValueError, match=r"found those of others \(target: 'ExpertTeacher"):
        tiny.fit(other, max_steps=1)


def test_an_image_that_the_cache_does_not_know(tmp_path: Path) -> None:
    module = one_step(cache=filled(tmp_path, one_step()))
    with pytest.raises(ValueError, match="There is no cached output for this image of 8x8 pixels"):
        losses(module, Batch(1.0 - LQ, None, BATCH.key))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target with the student's scale 4, found 2"):
        one_step(target=tiny_experts.expert_teacher(tiny_experts.compact(2), scale=2))
    with pytest.raises(ValueError, match="Expected a `target`, whose outputs are in the cache"):
        one_step(target=None, cache=tmp_path)


def test_the_targets_pictures_are_shown_beside_the_students() -> None:
    module = one_step()
    shown = module.references(BATCH)
    assert shown.keys() == {"target"}
    assert torch.equal(shown["target"], module.target.restore(LQ))
    assert not one_step(target=None).references(BATCH)
