"""OFTSR's configurations, each pair trained, tested and used through the command line."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctsr_lightning.teachers import FlowTeacher, Teacher
from ctsr_lightning.training import INTERRUPTED, link_scale, training_cli
from helpers.config_runs import CONFIGS, FEW, QUIET, Events, build, ctsr, toy_environment, train_and_use, written

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

PAIRS = {
    "nano": ("nano/flow_teacher", "nano/tunable_flow", "nano_flow"),
    "pixel": ("oftsr/pixel_teacher", "oftsr/pixel_student", "pixel_flow"),
    "latent": ("oftsr/latent_teacher", "oftsr/latent_student", "latent_flow"),
}
"""Teacher, student, and the network file that both of the student's networks are built by."""
WIDTHS = {"pixel": "[8,8,8,8,8,8]", "latent": "[8,8,8,8]"}
SMALL = {"norm_num_groups": "4", "attention_head_dim": "4"}
TERMS = {"train/loss", "train/flow/distil", "train/flow/align", "train/flow/boundary"}


def words(space: str, student: bool, steps: int = 2) -> list[str]:
    """Options that bring a training here."""
    found = [*FEW, "--data.train", "null", "--data.val", "null", "--trainer.max_steps", str(steps)]
    found += ["--trainer.accumulate_grad_batches", "1"]
    if space == "nano":
        return [*found, "--model.scheduler.total_steps", "9", "--model.scheduler.warmup_steps", "1"]
    sizes = {"block_out_channels": WIDTHS[space], **SMALL}
    parts = ("student.network", "teacher") if student else ("student.network",)
    return [*found, *(w for part in parts for k, v in sizes.items() for w in (f"--model.{part}.unet.{k}", v))]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the runs and what they need."""
    with toy_environment(tmp_path_factory.mktemp("oftsr")) as folder:
        yield folder


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, environment: Path) -> tuple[str, Path, Path]:
    """The name of a pair, and the folders of both trainings."""
    teacher, student, _ = PAIRS[request.param]
    ctsr("fit", CONFIGS / f"{teacher}.yaml", *words(request.param, student=False))
    train_and_use(CONFIGS / f"{student}.yaml", *words(request.param, student=True))
    return request.param, environment / Path(teacher).name, environment / Path(student).name


@pytest.mark.slow
def test_both_train_and_are_measured(pair: tuple[str, Path, Path]) -> None:
    _, teacher, student = pair
    assert Events(teacher).scalars("train/").keys() == {"train/loss", "train/flow/match"}
    assert "val/psnr_y" in Events(teacher).scalars("val/")
    trained, measured = Events(student).scalars("train/"), Events(student).scalars("test/")
    assert trained.keys() == TERMS
    assert trained["train/flow/boundary"][0] == pytest.approx(0.0, abs=1e-12)  # the student starts as the teacher
    steps = re.findall(r"flow (\d+)/psnr_y", " ".join(measured))
    assert len(steps) == 1
    assert {f"test/psnr_y/t={t}" for t in ("0.00", "0.50", "1.00")} < measured.keys()
    assert "val/tradeoff" in Events(student).images()
    assert len(list((student / "restored").glob("*.png"))) == 2
    weights = load_file(student / "weights.safetensors")
    assert {name.split(".")[0] for name in weights} == {"student"}
    start = load_file(teacher / "weights.safetensors")
    change = max(float((value - start[name]).abs().max()) for name, value in weights.items())
    assert 0.0 < change < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["nano", "latent"], indirect=True)  # the students of CTSR work on latents
def test_a_flow_becomes_a_teacher_of_ctsr(pair: tuple[str, Path, Path]) -> None:
    space, _, student = pair
    sizes = {} if space == "nano" else {"block_out_channels": WIDTHS[space], **SMALL}
    options = [word for name, value in sizes.items() for word in (f"--network.unet.{name}", value)]
    teacher = build(Teacher, CONFIGS / "teacher" / f"{space}_flow.yaml", *options)
    assert isinstance(teacher, FlowTeacher)
    lq = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert teacher.restore(lq).shape == (1, 3, 64, 64)
    trained = load_file(student.parent / Path(PAIRS[space][0]).name / "weights.safetensors")
    weight = teacher.frozen.network.unet.conv_out.weight
    assert torch.equal(weight, trained["student.network.unet.conv_out.weight"])


@pytest.mark.slow
def test_it_goes_on_after_ctrl_c_as_if_nothing_had_happened(environment: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    ctsr("fit", CONFIGS / "nano" / "flow_teacher.yaml", *words("nano", student=False))
    found = {}
    for name, callbacks in (
        ("straight", []),
        ("interrupted", ["--trainer.callbacks+", "helpers.config_runs.PressCtrlC"]),
    ):
        options = [*words("nano", student=True, steps=3), "--trainer.logger.init_args.name", name]
        if callbacks:
            with pytest.raises(SystemExit) as end:
                ctsr("fit", CONFIGS / "nano" / "tunable_flow.yaml", *options, *callbacks)
            signal.signal(signal.SIGINT, handler)
            assert end.value.code == INTERRUPTED
            options += ["--ckpt_path", str(environment / name / "checkpoints" / "last.ckpt")]
        ctsr("fit", CONFIGS / "nano" / "tunable_flow.yaml", *options)
        found[name] = load_file(environment / name / "weights.safetensors")
    assert all(torch.equal(value, found["interrupted"][name]) for name, value in found["straight"].items())


@pytest.mark.parametrize(("teacher", "student", "network"), PAIRS.values(), ids=PAIRS)
def test_a_flow_is_distilled_as_it_was_trained(teacher: str, student: str, network: str) -> None:
    trained = written(teacher)["model"]["init_args"]["student"]["init_args"]["network"]
    built = written(f"network/{network}")
    file = built["init_args"].pop("weights")
    assert built == trained
    assert file.endswith(f"/{Path(teacher).name}/weights.safetensors")
    arguments = written(student)["model"]["init_args"]
    assert arguments["teacher"] == f"../network/{network}.yaml"
    assert arguments["student"] == {"class_path": "OneStepFlow", "init_args": {"network": arguments["teacher"]}}


@pytest.mark.parametrize("space", ["pixel", "latent"])
def test_full_size_is_the_paper(space: str) -> None:
    teacher, student = (written(name) for name in PAIRS[space][:2])
    one, two = (config["model"]["init_args"] for config in (teacher, student))
    assert (one["norm"], two["norm"], two["solver"]) == ("l1", "l2", "midpoint")
    assert [two[f"lambda_{name}"] for name in ("distil", "align", "boundary")] == [1, 0.01, 0.1]
    assert [two[name] for name in ("dt", "t_min", "t_max")] == [0.05, 0.01, 0.99]
    for config in (teacher, student):
        trainer = config["trainer"]
        assert (trainer["precision"], trainer["gradient_clip_val"]) == ("32-true", 1.0)
        assert {"class_path": "EMA", "init_args": {"decay": 0.9999}} in trainer["callbacks"]
        assert config["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert (teacher["trainer"]["max_steps"], student["trainer"]["max_steps"]) == (300_000, 50_000)
    assert one["student"]["init_args"]["network"]["init_args"]["residual_std"] is None
    if space == "pixel":
        data = written("data/oftsr")["init_args"]
        assert one["student"]["init_args"]["network"]["init_args"]["sigma"] == 0.2
        assert data["crop"] == 256
        assert data["batch_size"] * teacher["trainer"]["accumulate_grad_batches"] == 128


def test_the_data_s_scale_is_that_of_both_networks(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []

    def stop(config: Any) -> None:
        link_scale(config)
        parsed.append(config.model.init_args)
        raise InterruptedError

    monkeypatch.setattr("ctsr_lightning.training.link_scale", stop)
    with pytest.raises(InterruptedError):
        training_cli(["fit", "--config", str(CONFIGS / "nano" / "tunable_flow.yaml"), "--data.scale", "2"])
    (found,) = parsed
    assert found.student.init_args.network.init_args.scale == found.teacher.init_args.scale == 2


def test_the_unet_in_pixels_is_the_paper_s_at_full_size(environment: Path) -> None:
    config = ["--config", str(CONFIGS / "oftsr" / "pixel_teacher.yaml"), *QUIET, *FEW, "--data.train", "null"]
    with torch.device("meta"):
        network = training_cli([*config, "--data.val", "null"], run=False).model.student.network
    attention = [bool(getattr(block, "attentions", None)) for block in network.unet.down_blocks]
    assert attention == [False] * 4 + [True, False]  # at 16 of 256 pixels
    assert [bool(getattr(block, "attentions", None)) for block in network.unet.up_blocks] == attention[::-1]
    assert (network.multiple, network.cell) == (32, 32)
