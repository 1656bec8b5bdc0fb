"""Random numbers that do not depend on the number of processes."""

import pytest
import torch

from ctsr_lightning.modules.draws import Draws

WHOLE, SHARE = torch.zeros(8, 4, 2, 2), torch.zeros(4, 4, 2, 2)

KINDS = {
    "normal": lambda draws, like: draws.normal(like),
    "integers": lambda draws, like: draws.integers(20, 979, like),
    "uniform": lambda draws, like: draws.uniform(like),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_share_the_numbers_of_one(kind):
    draw = KINDS[kind]
    one, first, second = Draws(5), Draws(5, 0, 2), Draws(5, 1, 2)
    for _ in range(3):  # later draws of a step agree too
        whole = draw(one, WHOLE)
        dealt = torch.empty_like(whole)
        dealt[0::2], dealt[1::2] = draw(first, SHARE), draw(second, SHARE)
        assert torch.equal(dealt, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides(kind):
    draw = KINDS[kind]
    assert torch.equal(draw(Draws(1), WHOLE), draw(Draws(1), WHOLE))
    assert not torch.equal(draw(Draws(1), WHOLE), draw(Draws(2), WHOLE))


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    for draw in KINDS.values():
        draw(Draws(1), WHOLE)
    assert torch.equal(torch.get_rng_state(), state)


def test_integers_fill_the_closed_interval():
    drawn = Draws(0).integers(3, 5, torch.zeros(300))
    assert sorted(set(drawn.tolist())) == [3, 4, 5]


def test_uniform_numbers_stay_inside():
    drawn = Draws(0).uniform(torch.zeros(1000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)


def test_normal_has_unit_variance_and_the_latents_type():
    assert Draws(0).normal(torch.zeros(100, 4, 8, 8)).var().item() == pytest.approx(1.0, rel=0.03)
    assert Draws(0).normal(torch.zeros(2, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
