"""`ctsr benchmark`: which parts it measures, on which networks, and what it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from ctsr_lightning.cli import main
from ctsr_lightning.commands.options import load_restorer
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.timing import generated_model, parts
from ctsr_lightning.models import TradeOff
from ctsr_lightning.networks import LoRA
from helpers import tiny

PARTS = ["encode z_L = E(up(x))", "student's UNet", "velocity field's UNet", "decode"]
WHOLE = ["whole, 1 value of t", "whole, 2 values of t", "whole, 6 values of t"]


def run(*words: str) -> None:
    main(["benchmark", "--size", "8", "--warmup", "0", "--repeats", "2", "--device", "cpu", *words])


def test_a_checkpoint_part_by_part(stage2: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--checkpoint", stage2, "--batch", "2", "--output", str(tmp_path / "new" / "cost.json"))
    record = json.loads((tmp_path / "new" / "cost.json").read_text())
    assert [part["part"] for part in record["parts"]] == PARTS + WHOLE
    assert record["input"] == [2, 3, 8, 8]
    assert record["output"] == [2, 3, 32, 32]
    for part in record["parts"]:
        assert part["seconds"] >= part["fastest"] > 0
        assert part["passes"] == 2
        assert part["per_t"] == (part["part"] == "decode")
        assert part["dtype"] == "float32"
        assert (part["ratio"] is not None) == ("UNet" in part["part"])  # the nano codec is none of diffusers'
        assert part["memory"] is None or part["memory"] > 2**20
    out = capsys.readouterr().out
    for name in PARTS + WHOLE:
        assert f"| {name} |" in out
    assert "float32" in out


def test_a_student_alone_has_no_velocity(stage1: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("--checkpoint", stage1)
    out = capsys.readouterr().out
    assert "velocity" not in out
    assert "whole, 2" not in out


@pytest.mark.usefixtures("shipped")
def test_the_shipped_model_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    run("--precision", "bfloat16", "--batch", "2")
    out = capsys.readouterr().out
    assert re.search(r"\nnano \(shipped with ctsr_lightning \S+\); 2 x 3 x 8 x 8 to 2 x 3 x 32 x 32; cpu", out)
    (whole,) = re.findall(r"\| whole, 1 value of t \| bfloat16 \+ float32 \| \S+ M \| (\S+) \|", out)
    found = re.findall(r"bfloat16 against float32 at t = ([01]): PSNR (\S+) dB, error of the latent (\S+) %", out)
    assert [t for t, _, _ in found] == ["0", "1"]
    assert all(45.0 < float(psnr) < 90.0 and 0.0 < float(error) < 3.0 for _, psnr, error in found)
    (each,) = re.findall(r"\*\*(\S+) s per image\*\*, 8 x 8 to 32 x 32 pixels", out)
    assert float(each) == pytest.approx(float(whole) / 2, abs=1e-3)


def test_the_work_is_that_of_a_restoration(stage2: str) -> None:
    restorer = Restorer.from_pretrained(stage2, "cpu", tile=0)
    lq = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    by_name = {work.name: work.run for work in parts(restorer, lq)}
    z_0, velocity = by_name["student's UNet"](), by_name["velocity field's UNet"]()
    trajectory = restorer.trajectory(lq)
    torch.testing.assert_close(torch.cat([z_0, velocity], dim=1), trajectory.state)
    assert torch.equal(by_name["decode"]().clamp(0, 1), restorer.decode(trajectory, 0.0))
    assert len(by_name[WHOLE[2]]()) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_bare_networks_compute_the_same(dtype: torch.dtype) -> None:
    """What the ratio divides by is the same work: diffusers' own classes give the same numbers, bit for bit."""
    student = tiny.adapted_student(timestep=250)
    restorer = Restorer(
        TradeOff(student, tiny.velocity(unet=tiny.prompted_unet(), lora=LoRA(), awake=True)), "cpu", dtype
    )
    student, lq = restorer.model.student, torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = {work.name: work.plain() for work in parts(restorer, lq) if work.plain is not None}
    assert list(plain) == PARTS
    start = student.start(lq)
    assert torch.equal(plain[PARTS[0]].float() * 0.18215, start)
    alpha_bar = student.schedule.alpha_bar(torch.tensor([250]), start)
    latent = student.latent(lq, start)
    assert torch.equal((start - (1 - alpha_bar).sqrt() * plain[PARTS[1]].float()) / alpha_bar.sqrt(), latent)
    field = restorer.model.velocity(latent, torch.zeros(1), student.prompt(lq), start)
    assert torch.equal(restorer.model.velocity.head(plain[PARTS[2]].float()), field)
    assert torch.equal(plain[PARTS[3]].float() / 2 + 0.5, student.decode(latent))


def test_slow_parts_are_measured_no_longer_than_needed(
    stage2: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsr_lightning.inference.timing.ENOUGH", 0.0)  # as at full size on a CPU
    words = ["--size", "8", "--device", "cpu", "--checkpoint", stage2, "--output", str(tmp_path / "cost.json")]
    main(["benchmark", *words])
    costs = json.loads((tmp_path / "cost.json").read_text())["parts"]
    assert {cost["part"]: cost["passes"] for cost in costs} == {
        PARTS[0]: 1, PARTS[1]: 2, PARTS[2]: 2, PARTS[3]: 1, WHOLE[0]: 1,
    }  # fmt: skip


@pytest.mark.parametrize(("half", "found"), [("bfloat16", {}), ("float16", {"avx512_bf16": True})])
def test_an_emulated_type_is_named(
    half: str, found: dict[str, bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage1: str
) -> None:
    for known, said in ((found, True), (dict.fromkeys(("avx512_bf16", "avx512_fp16"), True), False)):
        capabilities = {"architecture": "x86_64", **known}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        load_restorer(stage1, tile=0, device="cpu", precision=half)
        assert (f"no instructions for {half}" in capsys.readouterr().err) == said


@pytest.mark.slow
def test_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = generated_model()
    networks = (model.student.unet, model.student.codec, model.velocity, model)
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    unet, codec, head = 865_910_724 + 4_055_712, 83_653_863 + 369_356, 20  # base and adapters
    own = (
        4_055_712 + 320 * 4 * 9 + 320 + head
    )  # adapters, and the first convolution, of which the student trains a copy
    assert counts == [unet, codec, unet + head, unet + codec + own]  # the rest of the base counts once


@pytest.mark.parametrize("option", ["--size", "--batch", "--repeats"])
def test_mistakes_are_explained(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", option, "0"])
    assert f"Expected {option} of at least 1, found 0" in capsys.readouterr().err
