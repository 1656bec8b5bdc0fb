"""The names of images reach the prompt, wherever a network restores or is trained."""

import pytest
import torch

from ctsr_lightning.evaluation.experts import Expert
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.modules import CTSRStage1, CTSRStage2, OneStepTraining, PriorTraining
from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny


class ByName(Prompt):
    """An embedding for each name; a call without names is an error."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, lq, keys=None):
        assert keys is not None
        assert len(keys) == len(lq)
        self.seen.append(list(keys))
        return torch.stack([torch.full((2, 6), float(key) + 1) for key in keys]).to(lq)


def student():
    return tiny.adapted_student(prompt=ByName())


def stage_one():
    return CTSRStage1(student(), tiny.fidelity_teacher(), OneStepTeacher(student()), tiny.reconstruction())


def stage_two():
    velocity = tiny.velocity(awake=True, unet=tiny.prompted_unet())
    return CTSRStage2(student(), velocity, OneStepTeacher(student()))


def realness():
    return OneStepTraining(student(), tiny.reconstruction(), tiny.prompted_unet(), tiny.prompted_unet(seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [stage_one, stage_two, realness, lambda: PriorTraining(student())])
def test_trainings_pass_the_names(make):
    module, batch = make(), tiny.batch()
    terms = module.losses(batch)
    assert all(torch.isfinite(term) for term in terms.values())
    assert module.predict_step(batch, 0)["restored"].shape == batch.gt.shape
    assert all(image.shape == batch.gt.shape for image in module.references(batch).values())
    if module.controllable:
        assert len(module.sweep(batch.lq, [0.0, 1.0], batch.key)) == 2


def test_names_belong_to_their_images():
    network, batch = student(), tiny.batch()
    together = network.restore(batch.lq, keys=["3", "7"])
    torch.testing.assert_close(network.restore(batch.lq[1:], keys=["7"]), together[1:], rtol=0, atol=1e-5)
    assert not torch.allclose(network.restore(batch.lq[1:], keys=["3"]), together[1:], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_restorer_and_expert_name_every_tile():
    network, teacher = student(), OneStepTeacher(student())
    restorer = Restorer(network, torch.device("cpu"), tile=16)
    restorer(torch.rand(3, 20, 30), keys=["4"])
    Expert(teacher, torch.device("cpu"), tile=16)(torch.rand(1, 3, 20, 30), keys=["5"])
    assert set(map(tuple, network.prompt.seen)) == {("4",)}
    assert len(network.prompt.seen) > 1
    assert set(map(tuple, teacher.frozen.network.prompt.seen)) == {("5",)}
