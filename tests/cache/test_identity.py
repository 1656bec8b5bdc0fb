"""The name of a network changes with what changes its answers, and with nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ctsr_lightning.cache.identity import identity
from ctsr_lightning.diffusion import ResShiftSchedule
from ctsr_lightning.networks import LoRA
from ctsr_lightning.prompts import NoPrompt
from ctsr_lightning.teachers import OneStepTeacher, ResShiftTeacher
from helpers import tiny

MAKERS = {
    "student": tiny.student,
    "adapted student": tiny.adapted_student,
    "T_f": tiny.fidelity_teacher,
    "T_r": tiny.realness_teacher,
    "linear": tiny.LinearTeacher,
}


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_same_network_has_the_same_name(make) -> None:
    name = identity(make())
    assert name == identity(make()) == identity(copy.deepcopy(make()).eval().requires_grad_(False))
    assert name.startswith(type(make()).__name__ + " ")


def test_every_network_has_its_own_name() -> None:
    made = [
        *(make() for make in MAKERS.values()),
        tiny.student(seed=1),
        tiny.student(timestep=250),
        tiny.student(residual=True),
        tiny.student(lora=LoRA()),
        tiny.adapted_student(seed=1),
        tiny.adapted_student(prompt=NoPrompt()),
        tiny.fidelity_teacher(1),
        ResShiftTeacher(tiny.shift_network(), seed=1),
        ResShiftTeacher(tiny.shift_network(temperature=0.5)),
        ResShiftTeacher(tiny.shift_network(schedule=ResShiftSchedule(num_steps=15))),
        OneStepTeacher(tiny.student(seed=1)),
        OneStepTeacher(tiny.adapted_student(), score="base"),
        tiny.LinearTeacher(slope=0.6),
    ]
    assert len({identity(network) for network in made}) == len(made)


def test_a_single_adapter_weight_counts() -> None:
    student = tiny.adapted_student()
    before = identity(student)
    weight = next(p for n, p in student.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight.view(-1)[-1] += 1e-6
    assert identity(student) != before


def test_large_weights_are_sampled() -> None:
    big = nn.Linear(1000, 300, bias=False)
    before = identity(big)
    with torch.no_grad():
        big.weight.mul_(1.0001)
    assert identity(big) != before


def test_a_part_may_be_left_out() -> None:
    names = set()
    for prompt in (tiny.TinyPrompt(), NoPrompt()):
        student = tiny.adapted_student(prompt=prompt)
        names.add(identity(student, without=student.prompt))
    assert len(names) == 1


def test_what_changes_no_answer_changes_no_name() -> None:
    assert identity(tiny.adapted_student(gradient_checkpointing=True)) == identity(tiny.adapted_student())
    assert identity(tiny.fidelity_teacher().train()) == identity(tiny.fidelity_teacher())


def test_a_stand_in_carries_the_name_of_what_it_stands_for() -> None:
    prompt = NoPrompt()
    prompt.stands_for = "TaggedPrompt 12"
    assert identity(prompt) == "TaggedPrompt 12"
