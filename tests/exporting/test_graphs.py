"""Graphs of torch.export and ONNX restore the same images at sizes other than the traced one."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from ctsr_lightning.cli import main
from ctsr_lightning.exporting import graphs
from ctsr_lightning.exporting.export import export_model
from ctsr_lightning.inference.restorer import Restorer
from helpers import tiny

from .conftest import full_size

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "restore_onnx.py"
TINY = 2e-5


def test_programs_of_torch_export(nano: Path, tmp_path: Path) -> None:
    assert export_model(nano, "torch", tmp_path / "out").difference < TINY
    names = {"encoder.pt2", "student.pt2", "velocity.pt2", "decoder.pt2", "restorer.json", "README.md", "LICENSE"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    manifest = json.loads((tmp_path / "out" / "restorer.json").read_text())
    assert manifest["graphs"]["velocity"]["inputs"] == ["latent", "lq_latent"]  # this one is shown z_L
    program = torch.export.load(tmp_path / "out" / "decoder.pt2").module()
    latent = torch.randn(1, 4, 10, 4, generator=torch.Generator().manual_seed(0))
    expected = Restorer.from_pretrained(nano, "cpu").model.at(torch.cat([latent, latent], dim=1), 0.0)
    torch.testing.assert_close(program(latent), expected, rtol=0, atol=TINY)


def test_onnx_restores_without_torch(nano: Path, tmp_path: Path) -> None:
    for name in graphs.NEEDED:
        pytest.importorskip(name, reason="the extra `export` is not installed")
    assert export_model(nano, "onnx", tmp_path / "out").difference < TINY
    example, restorer = runpy.run_path(str(EXAMPLE)), Restorer.from_pretrained(nano, "cpu")
    assert "torch" not in EXAMPLE.read_text().replace("without torch", "")
    for height, width in ((5, 9), (1, 3), (8, 16)):
        lq = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
        for t in (0.0, 0.7):
            found = example["restore"](tmp_path / "out", lq.numpy(), t)
            np.testing.assert_allclose(found, restorer(lq, t).numpy(), atol=TINY)


def test_onnx_of_the_full_size_layout(base: Path, tmp_path: Path) -> None:
    """Adapters merged, attention, a prompt inside, and a KL autoencoder."""
    for name in graphs.NEEDED:
        pytest.importorskip(name, reason="the extra `export` is not installed")
    source = full_size(tmp_path / "source", base, stage=1)
    assert export_model(source, "onnx", tmp_path / "out").difference < 1e-3


def test_each_pass_is_the_models(nano: Path, full: Path, base: Path, tmp_path: Path) -> None:
    """Without an exporter: what is traced is what the model computes, also by `reencode`."""
    (folder := tmp_path / "reencode").mkdir()
    checkpoint = torch.load(nano, weights_only=True)
    checkpoint["hyper_parameters"]["z0_source"] = "reencode"
    for name in ("codec.ckpt", "student.ckpt"):
        (folder / name).write_bytes((nano.parent / name).read_bytes())
    torch.save(checkpoint, folder / "stage2.ckpt")
    for source in (nano, full, folder / "stage2.ckpt", full_size(tmp_path / "one", base, stage=1)):
        restorer = Restorer.from_pretrained(source, "cpu")
        runs = {g.name: lambda inputs, g=g: g.module(*(inputs[n] for n in g.inputs)) for g in graphs.graphs(restorer)}
        lq = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
        for t in (0.0, 0.5) if restorer.controllable else (0.0,):
            with torch.no_grad():
                found = graphs.restore(runs, lq, 4, t)
            torch.testing.assert_close(found, restorer(lq, t), rtol=0, atol=TINY)


def test_what_no_graph_can_hold_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="found OneStepFlow"):
        graphs.graphs(Restorer(tiny.one_step_flow(), "cpu"))
    with pytest.raises(ValueError, match="found TinyPrompt: a graph holds"):
        graphs.graphs(Restorer(tiny.adapted_student(), "cpu"))
    with pytest.raises(ValueError, match="without random numbers"):
        graphs.graphs(Restorer(tiny.adapted_student(sample_latent=True), "cpu"))
    source = full_size(tmp_path, base, z0_source="reencode")
    with pytest.raises(ValueError, match="one encoder for graphs"):
        graphs.graphs(Restorer.from_pretrained(source, "cpu"))


def test_without_the_extra(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(SystemExit) as end:
        main(["export", "--checkpoint", str(nano), "--format", "onnx", str(tmp_path / "out")])
    assert end.value.code == 1
    assert "found no onnxscript. Install them: pip install 'ctsr-lightning[export]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
