"""Teachers as restorers of any image, their blend, and their place in a checkpoint."""

import pytest
import torch

from ctsr_lightning.evaluation.experts import Expert, blends
from ctsr_lightning.inference.trajectory import RestorationError
from ctsr_lightning.teachers import ResShiftTeacher
from helpers import tiny, tiny_experts

CPU = torch.device("cpu")
MAKERS = {
    "one step": tiny.realness_teacher,
    "residual shift": tiny.fidelity_teacher,
    "file": tiny_experts.expert_teacher,
    "file, folded pixels": lambda: tiny_experts.expert_teacher(tiny_experts.rrdb(2), scale=2),
}


@pytest.fixture(params=MAKERS)
def teacher(request):
    return MAKERS[request.param]()


def test_fitting_images_are_restored_as_by_the_teacher(teacher):
    lq = torch.rand(2, 3, 8, 12)
    assert torch.equal(Expert(teacher, CPU)(lq), teacher.restore(lq))


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (9, 8)])
def test_any_size(teacher, size):
    restored = Expert(teacher, CPU)(torch.rand(3, *size))
    assert restored.shape == (1, 3, *(side * teacher.scale for side in size))
    assert 0.0 <= restored.min() <= restored.max() <= 1.0


def test_tiles_cover_the_image(teacher):
    restored = Expert(teacher, CPU, tile=8)(torch.rand(1, 3, 21, 10))
    assert restored.shape[-2:] == (21 * teacher.scale, 10 * teacher.scale)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_published_network_restores_large_photos_in_tiles_without_seams(scale, monkeypatch):
    """Bounded memory: no tile is larger than asked for, and no border of one shows."""
    teacher = tiny_experts.expert_teacher(tiny_experts.rrdb(scale), scale)
    rows, columns = torch.meshgrid(torch.arange(130.0), torch.arange(180.0), indexing="ij")
    lq = torch.stack([torch.sin(rows / 7), torch.cos(columns / 9), torch.sin((rows + columns) / 5)])[None] * 0.4 + 0.5
    whole, seen = Expert(teacher, CPU)(lq), []
    restore = type(teacher).restore

    def watched(self, image, keys=None):
        seen.append(tuple(image.shape[-2:]))
        return restore(self, image, keys)

    monkeypatch.setattr(type(teacher), "restore", watched)
    tiled = Expert(teacher, CPU, tile=64)(lq)
    assert len(seen) == 12
    assert set(seen) == {(64, 64)}
    difference = (tiled - whole).abs()
    assert difference.max() < 2 / 255  # the borders of tiles, which lack their surroundings, weigh next to nothing
    jumps = [(image[..., 1:] - image[..., :-1]).abs().max() for image in (tiled, whole)]
    assert jumps[0] < 1.02 * jumps[1]


def test_half_precision_of_a_published_network():
    teacher, lq = tiny_experts.expert_teacher(tiny_experts.rrdb()), torch.rand(1, 3, 8, 8)
    full, half = (Expert(teacher, CPU, dtype)(lq) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0, atol=0.05)
    assert {p.dtype for p in teacher.frozen.network.parameters()} == {torch.float32}


def test_the_seed_is_the_only_source_of_randomness():
    expert = Expert(ResShiftTeacher(tiny.shift_network()), CPU)
    lq = torch.rand(1, 3, 8, 8)
    torch.manual_seed(3)
    first, state = expert(lq, seed=1), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from the caller's generator
    assert torch.equal(expert(lq, seed=1), first)
    assert not torch.equal(expert(lq, seed=2), first)


def test_tiles_draw_by_their_own_content():
    teacher, lq = ResShiftTeacher(tiny.shift_network()), torch.rand(1, 3, 8, 20)
    whole = Expert(teacher, CPU, tile=8)(lq)
    other = lq.clone()
    other[..., -1] = 1.0 - other[..., -1]  # seen by the last tile alone
    changed = (Expert(teacher, CPU, tile=8)(other) != whole).any(dim=1).any(dim=1)[0]
    assert not changed[: 12 * teacher.scale].any()
    assert changed[12 * teacher.scale :].any()
    repeated = torch.cat([lq[..., :8], lq[..., :8]], dim=0)
    assert torch.equal(*Expert(teacher, CPU, tile=8)(repeated).unbind())


def test_diverged_networks_are_named():
    teacher = tiny.realness_teacher()
    next(teacher.frozen.network.unet.parameters()).fill_(torch.nan)
    with pytest.raises(RestorationError, match="OneStepTeacher produced NaN"):
        Expert(teacher, CPU)(torch.rand(3, 8, 8))


def test_blends_are_linear_and_end_at_the_teachers():
    faithful, realistic = torch.rand(2, 1, 3, 4, 4).unbind()
    ends = list(blends(faithful, realistic, [0.0, 0.3, 1.0]))
    assert torch.equal(ends[0], realistic)
    assert torch.equal(ends[2], faithful)
    torch.testing.assert_close(ends[1], 0.3 * faithful + 0.7 * realistic)
    with pytest.raises(ValueError, match=r"alpha of T_f in \[0, 1\], found 1.5"):
        list(blends(faithful, realistic, [1.5]))
