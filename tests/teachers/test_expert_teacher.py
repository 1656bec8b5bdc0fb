"""Published restoration networks as teachers; tests/teachers/test_teacher_contract.py has what all teachers promise."""

import pytest
import torch

from ctsr_lightning.teachers import ExpertTeacher
from helpers import tiny, tiny_experts


def test_it_answers_with_the_networks_pictures(tmp_path):
    teacher = ExpertTeacher(tiny_experts.saved(tmp_path / "net.pth"))
    lq = torch.rand(2, 3, 5, 6)
    assert teacher.scale == teacher.multiple == 4
    assert torch.equal(teacher.restore(lq), teacher.frozen.network(lq))


@pytest.mark.parametrize(("made_for", "asked"), [(2, 4), (4, 2), (1, 4)])
def test_a_network_of_another_scale_is_refused(tmp_path, made_for, asked):
    path = tiny_experts.saved(tmp_path / "net.pth", tiny_experts.compact(made_for))
    with pytest.raises(
        ValueError, match=rf"network for x{asked} in '.*net\.pth', found RealESRGAN Compact for x{made_for}"
    ):
        ExpertTeacher(path, scale=asked)


def test_judging_is_refused_with_what_to_do():
    teacher, noisy = tiny_experts.expert_teacher(), None
    with pytest.raises(
        ValueError, match=r"has no score.*Stage 2 can use it.*train OneStepTraining with it as `target`"
    ):
        teacher.targets(noisy, noisy, teacher.condition(torch.rand(1, 3, 4, 4)), "paper", torch.randn_like)


def test_stage_1_with_it_says_so(tmp_path):
    from ctsr_lightning.modules import CTSRStage1

    stage_1 = CTSRStage1(tiny.student(), tiny_experts.expert_teacher(), tiny.realness_teacher(), tiny.reconstruction())
    with pytest.raises(ValueError, match="has no score"):
        stage_1.losses(tiny.batch())
