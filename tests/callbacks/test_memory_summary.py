"""What a training holds in memory, as a table."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from ctsr_lightning.callbacks import MemorySummary
from ctsr_lightning.callbacks.memory import HEADER, as_text, components, table
from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.inference.devices import peak_memory
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.modules import CTSRStage1, CTSRStage2, OneStepTraining
from ctsr_lightning.networks import LoRA, VelocityField
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.networks.sharing import share
from ctsr_lightning.teachers import OneStepTeacher
from helpers import tiny


def student(shared: bool) -> OneStepStudent:
    """A student of the full-size layout."""
    unet = share("unet", tiny.prompted_unet) if shared else tiny.prompted_unet()
    codec = KLCodec(share("vae", tiny.autoencoder) if shared else tiny.autoencoder())
    return OneStepStudent(unet, codec, lora=LoRA(), encoder_lora=LoRA(), prompt=tiny.TinyPrompt())


class Distance(tiny.Quartic):
    """A distance with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 5, 1)


def stage_one(shared: bool) -> CTSRStage1:
    """Stage 1."""
    realness = OneStepTeacher(student(shared), score="base")
    return CTSRStage1(student(shared), tiny.fidelity_teacher(), realness, Reconstruction(perceptual=Distance()))


def numel(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_every_network_has_a_row_in_its_place() -> None:
    module = stage_one(shared=False)
    fidelity: Any = module.teachers["fidelity"]
    realness: Any = module.teachers["realness"]
    found = {row.name: (row.kind, row.parameters) for row in components(module)}
    assert found == {
        "student.unet": ("UNet2DConditionModel", numel(module.student.unet)),
        "student.codec": ("KLCodec", numel(module.student.codec)),
        "fidelity.unet": ("UNet2DConditionModel", numel(fidelity.frozen.network.unet)),
        "fidelity.codec": ("NanoCodec", numel(fidelity.frozen.network.codec)),
        "realness.unet": ("UNet2DConditionModel", numel(realness.frozen.network.unet)),
        "realness.codec": ("KLCodec", numel(realness.frozen.network.codec)),
        "realness.prior": ("UNet2DConditionModel", numel(realness.prior.network)),
        "reconstruction.perceptual": ("Distance", 20),
    }


def test_separate_networks_hold_what_they_have() -> None:
    module = stage_one(shared=False)
    for row in components(module):
        assert row.separate == 4 * row.parameters
        assert row.held == (0 if row.name == "realness.prior" else row.separate)  # it is a view of `realness.unet`
        assert row.trainable == (
            numel(module.student.get_submodule(row.name.split(".")[1]), trained=True)
            if row.name.startswith("student")
            else 0
        )
        assert row.training == 3 * 4 * row.trainable
    assert sum(row.trainable for row in components(module)) == numel(module, trained=True) > 0


@pytest.mark.slow
def test_shared_weights_count_where_they_come_first() -> None:
    module = stage_one(shared=True)
    rows = {row.name: row for row in components(module)}
    for name in ("unet", "codec"):
        first, second = rows[f"student.{name}"], rows[f"realness.{name}"]
        assert first.held == first.separate == second.separate
        own = [n for n, p in module.student.get_submodule(name).named_parameters() if p.requires_grad]
        kept = module.student.get_submodule(name)
        assert second.held == 4 * sum(kept.get_parameter(n).numel() for n in own) > 0
    assert rows["realness.prior"].held == 0
    apart = components(stage_one(shared=False))
    assert [row.separate for row in rows.values()] == [row.separate for row in apart]
    assert [row.training for row in rows.values()] == [row.training for row in apart]


def test_stage_two_and_trainings_of_plain_networks() -> None:
    field = VelocityField(share("unet", tiny.prompted_unet), LoRA())
    two = CTSRStage2(student(shared=True), field, tiny.LinearTeacher())
    found = {row.name: row.trainable for row in components(two)}
    assert found.keys() == {"student.unet", "student.codec", "velocity.unet", "velocity.head"}
    assert found["velocity.head"] == 20
    assert found["student.unet"] == 0
    one_step = OneStepTraining(tiny.student(), tiny.reconstruction(), tiny.unet(), tiny.unet())
    names = [row.name for row in components(one_step)]
    assert sorted(names) == ["critic", "prior", "student.codec", "student.unet"]


def test_precision_buffers_own_weights_and_equal_names() -> None:
    module = nn.Module()
    module.gain = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    inner = nn.Module()
    inner.unet = nn.BatchNorm1d(4)
    inner.codec = tiny.nano_codec()
    teacher = nn.Module()
    teacher.frozen, teacher.codec = Frozen(inner), Frozen(tiny.nano_codec().half())
    module.teachers = nn.ModuleDict({"fidelity": teacher})
    rows = {row.name: row for row in components(module)}
    assert list(rows) == ["own", "fidelity.unet", "fidelity.frozen.codec", "fidelity.codec"]
    assert (rows["own"].held, rows["own"].training) == (56, 3 * 56)
    assert rows["fidelity.unet"].parameters == 8
    assert rows["fidelity.unet"].separate == 4 * 16 + 8  # mean, variance and an integer that counts batches
    assert rows["fidelity.codec"].held * 2 == rows["fidelity.frozen.codec"].held


def test_table_adds_up_and_is_aligned() -> None:
    rows = components(stage_one(shared=True))
    words = table(rows)
    assert words[0] == HEADER
    assert words[-1][0] == "total"
    assert words[-1][2] == f"{sum(row.parameters for row in rows):,}"
    assert words[-1][5] == f"{sum(row.held for row in rows) / 1e6:,.1f}"
    lines = as_text(words).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1
    assert table([])[-1] == ("total", "", "0", "0", "0.0", "0.0", "0.0")


def test_it_prints_and_logs(make_trainer, events, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(max_steps=1, callbacks=[MemorySummary()], limit_val_batches=0)
    module = CTSRStage1(tiny.student(), tiny.fidelity_teacher(), tiny.realness_teacher(), tiny.reconstruction())
    with caplog.at_level("INFO"):
        trainer.fit(module, tiny.loader(), tiny.loader())
    assert re.search(r"student\.unet +UNet2DConditionModel +[\d,]{5,}", caplog.text)
    said = re.search(r"Peak memory of the training \(cpu\): (\d+\.\d\d) GB", caplog.text)
    assert said is not None
    read = events()
    assert "memory/components/text_summary" in read.Tags()["tensors"]
    text = read.Tensors("memory/components/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| realness.unet | UNet2DConditionModel |" in text
    assert read.Scalars("memory/peak_gb")[-1].value == pytest.approx(float(said[1]), abs=0.006)


def test_it_prints_before_a_test_and_with_any_logger(make_trainer, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(callbacks=[MemorySummary()], logger=CSVLogger(tmp_path))
    module = CTSRStage1(tiny.student(), tiny.fidelity_teacher(), tiny.realness_teacher(), tiny.reconstruction())
    with caplog.at_level("INFO"):
        trainer.test(module, tiny.loader())
    assert "Networks in memory:" in caplog.text
    assert "Peak memory" not in caplog.text


@pytest.mark.slow
@pytest.mark.processes
def test_peak_grows_with_what_is_held() -> None:
    """In a process of its own, started by one that held more: its peak is its own."""
    torch.ones(128 * 2**20)  # 512 MiB
    parent = peak_memory(torch.device("cpu"))
    code = f"""
        import torch
        from ctsr_lightning.inference.devices import peak_memory  # which imports no more than torch

        before = peak_memory(torch.device("cpu"))
        held = torch.ones(16 * 2**20)
        after = peak_memory(torch.device("cpu"))
        assert 50e6 < before < after < {parent} - 200e6, (before, after, {parent})
        assert after >= held.numel() * 4
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
