"""How good the teachers' scores are, said before the first step of stage 1."""

import csv
import logging
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ctsr_lightning.diffusion import NoiseSchedule
from ctsr_lightning.modules import CTSRStage1
from ctsr_lightning.modules.noise_errors import BANDS, noise_errors
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny, tiny_resshift

SCHEDULE = NoiseSchedule()


class Known(tiny.LinearTeacher):
    """OutputCache with a multiple of the noise itself."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.frozen_networks = factor, []

    def targets(self, student, gt, condition, gradient, normal):
        self.frozen_networks.append(student)
        return super().targets(student, gt, condition, gradient, normal)._replace(align=self.factor * student.noise)


def measure(teacher, size=3):
    batch = tiny.batch(size, dtype=torch.float64)
    clean = tiny.nano_codec().double().encode(2 * batch.gt - 1)
    return noise_errors(teacher, SCHEDULE, clean, batch), clean


@pytest.mark.parametrize(("factor", "error"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25), (-1.0, 4.0)])
def test_error_is_relative_to_answering_zero(factor, error):
    assert measure(Known(factor))[0] == pytest.approx([error] * 5, abs=1e-12)


def test_bands_are_those_of_score_distillation_and_latents_those_of_ground_truth():
    teacher = Known(1.0)
    _, clean = measure(teacher)
    assert (BANDS[0][0], BANDS[-1][1]) == (20, 979)
    assert all(second[0] == first[1] + 1 for first, second in pairwise(BANDS))
    for noisy, (first, last) in zip(teacher.frozen_networks, BANDS, strict=True):
        assert first <= noisy.timestep.min() <= noisy.timestep.max() <= last
        expected = noisy.alpha_bar.sqrt() * clean + (1 - noisy.alpha_bar).sqrt() * noisy.noise
        torch.testing.assert_close(noisy.latent, expected)
        assert torch.equal(noisy.image, tiny.batch(3, dtype=torch.float64).gt)


MAKERS = [
    tiny.fidelity_teacher,
    lambda: OneStepTeacher(tiny.student(), score=tiny.unet(seed=7)),
    tiny_resshift.bridged_teacher,
]


@pytest.mark.parametrize("make", MAKERS)
def test_every_teacher_is_measured_the_same_every_time_without_drawing(make):
    teacher, state = make().double(), torch.get_rng_state()
    first, _ = measure(teacher)
    assert measure(teacher)[0] == first
    assert all(0 < error < float("inf") for error in first)
    assert torch.equal(torch.get_rng_state(), state)


def stage_one(realness):
    return CTSRStage1(tiny.student(seed=2), Known(0.5), realness, tiny.reconstruction(), gradient="score")


def test_errors_are_said_once_and_warned_about_where_there_is_no_score(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logger = CSVLogger(tmp_path)
    module = stage_one(Known(-1.0))
    tiny.fit(module, tiny.loader(count=4), max_steps=2, logger=logger, log_every_n_steps=1)
    said = [record for record in caplog.records if "oise error" in record.message]
    assert [record.levelname for record in said] == ["INFO", "INFO", "WARNING"]
    assert "fidelity teacher" in said[0].message
    assert "0.25 at t 20-59" in said[0].message
    assert "from the realness teacher, found 4.00 at t 20-59, 4.00 at t 60-149" in said[2].message
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        logged = [row["score/fidelity/t20-59"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == [0.25]


@pytest.mark.filterwarnings("ignore:.*exists and is not empty.*:UserWarning")
def test_training_does_not_notice_and_a_resumption_says_nothing(tmp_path, caplog, monkeypatch):
    def run(steps, start=None):
        torch.manual_seed(5)
        module = stage_one(tiny.realness_teacher())
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        options = {"enable_checkpointing": True, "callbacks": [saver], "ckpt_path": start}
        tiny.fit(module, tiny.loader(count=4), max_steps=steps, **options)
        return module.trimmed_state(), torch.get_rng_state()

    caplog.set_level(logging.INFO)
    said, said_state = run(2)
    monkeypatch.delattr(CTSRStage1, "on_train_batch_start")
    silent, silent_state = run(2)
    assert torch.equal(said_state, silent_state)
    monkeypatch.undo()
    caplog.clear()
    resumed, _ = run(4, tmp_path / "step=2.ckpt")
    assert "oise error" not in caplog.text
    straight, _ = run(4)
    assert "oise error" in caplog.text
    for one, other in ((said, silent), (resumed, straight)):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
