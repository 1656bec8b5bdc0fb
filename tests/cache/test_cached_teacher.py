"""CachedTeacher: what T_f said, without T_f. It has no opinion, so the contract of the others is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctsr_lightning.cache import CachedTeacher
from ctsr_lightning.cache.identity import identity
from ctsr_lightning.cache.store import OutputCache
from ctsr_lightning.images import quantize, to_uint8
from helpers import tiny

LQ = quantize(torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def restored() -> torch.Tensor:
    return tiny.fidelity_teacher().restore(LQ)


@pytest.fixture
def teacher(tmp_path: Path, restored: torch.Tensor) -> CachedTeacher:
    cache = OutputCache(tmp_path)
    cache.open({"scale": "4", "fidelity": identity(tiny.fidelity_teacher())}, {"pool": 3})
    for lq, image in zip(LQ, restored, strict=True):
        cache.write(lq, {"fidelity": torch.from_numpy(to_uint8(image)).permute(2, 0, 1)})
    return CachedTeacher(tmp_path)


def test_restorations_are_the_teachers_in_8_bits(teacher: CachedTeacher, restored: torch.Tensor) -> None:
    assert torch.equal(teacher.restore(LQ), quantize(restored))
    assert torch.equal(teacher.restore(LQ[[2, 0]], ["any", "names"]), quantize(restored)[[2, 0]])
    assert teacher.restore(LQ.double()).dtype == torch.float64


def test_it_is_a_teacher_without_weights(teacher: CachedTeacher) -> None:
    assert not list(teacher.parameters())
    assert not teacher.state_dict()
    assert teacher.multiple == teacher.scale == 4
    assert teacher.condition(LQ) is None
    assert identity(teacher) == identity(tiny.fidelity_teacher())


def test_other_images_are_explained(teacher: CachedTeacher) -> None:
    with pytest.raises(ValueError, match=r"no cached output for this image .* give the teacher itself"):
        teacher.restore(LQ.flip(-1))


def test_it_has_no_targets(teacher: CachedTeacher) -> None:
    with pytest.raises(ValueError, match="CachedTeacher serves stage 2 only"):
        teacher.targets(None, None, None, "paper", torch.randn_like)


def test_another_scale_is_refused(teacher: CachedTeacher) -> None:
    with pytest.raises(ValueError, match=r"Expected a cache of scale 2 .* one of scale 4"):
        CachedTeacher(teacher.output_cache.folder, scale=2)


def test_a_folder_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no cache.json"):
        CachedTeacher(tmp_path / "nothing")
