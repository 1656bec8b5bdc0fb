"""`ctsr evaluate` and `ctsr sweep` report grid energy, for files and for models at every t."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ctsr_lightning.cli import main
from ctsr_lightning.evaluation.measurements import Measurements
from ctsr_lightning.evaluation.methods import Method, Restoration
from ctsr_lightning.evaluation.report import markdown, record
from ctsr_lightning.evaluation.setup import caveats
from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.lattice import Lattice
from recipes.nano.card import figure, figure_sections

KEYS = ("a", "b")


def grid(height: int, width: int, factor: int, step: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height) // factor, torch.arange(width) // factor, indexing="ij")
    return step * ((rows + columns) % 2)


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photos of noise, the same with a grid of 8 x 8 patches, and their quarters; no weights of any metric."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    generator = torch.Generator().manual_seed(0)
    for key in KEYS:
        gt = torch.rand(3, 48, 64, generator=generator) * 0.1 + 0.4
        write_image(f"gt/{key}.png", gt)
        write_image(f"painted/{key}.png", gt + grid(48, 64, 8, 0.1))
        write_image(f"lq/{key}.png", torch.nn.functional.avg_pool2d(gt, 4))


def run(command: str, *words: str) -> None:
    main([command, *words, "--output", "out"])


def written(name: str) -> Any:
    return json.loads(Path("out", name).read_text(encoding="utf-8"))


def column(name: str = "grid_energy") -> list[float]:
    with Path("out/per_image.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_files_with_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "painted", "gt", "--metrics", "psnr,grid_energy", "--grid-factor", "8")
    pairs = [(read_image(f"painted/{key}.png")[None], read_image(f"gt/{key}.png")[None]) for key in KEYS]
    expected = [GridEnergy(8).values(*pair).item() for pair in pairs]
    assert column() == pytest.approx(expected, abs=1e-8)
    assert min(expected) > 1.5
    summary = written("summary.json")
    mean = sum(expected) / 2
    assert summary["results"][0]["grid_energy"] == pytest.approx(mean, abs=1e-12)
    described = summary["protocol"]["metrics"]["grid_energy"]
    assert (described["higher_is_better"], described["ideal"]) == (None, 1.0)
    assert "8x8 patches" in described["definition"]
    assert summary["grid_energy"]["holds"] is False
    out = capsys.readouterr().out
    assert "| psnr_y ↑ | grid_energy → 1 |" in out
    assert f"**Grid energy leaves the 3 % around the ground truth's** (+{100 * (mean - 1):.2f} %)." in out


def test_files_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    shade = {key: read_image(f"gt/{key}.png") * 0.5 for key in KEYS}
    for key, image in shade.items():
        write_image(f"dark/{key}.png", image)
    run("evaluate", "dark", "gt", "--metrics", "grid-energy")
    assert "4x4 patches" in written("summary.json")["protocol"]["metrics"]["grid_energy"]["definition"]
    assert written("summary.json")["grid_energy"]["holds"] is True
    assert "Grid energy stays within 3 % of the ground truth's (patches of 4x4 pixels; " in capsys.readouterr().out


def test_a_cut_border_moves_the_grid() -> None:
    words = ("painted", "gt", "--metrics", "grid_energy", "--grid-factor", "8")
    run("evaluate", *words)
    whole = column()
    run("evaluate", *words, "--crop-border", "3")
    assert column() == pytest.approx(whole, rel=0.1)
    assert min(column()) > 1.5


def test_options_that_cannot_take_effect(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--grid-factor", "8"], "Expected grid_energy among --metrics"),
        (["--metrics", "grid_energy", "--grid-factor", "1"], "at least 2 pixels"),
    ):
        with pytest.raises(SystemExit):
            run("evaluate", "painted", "gt", *words)
        assert message in capsys.readouterr().err


def test_a_model_is_measured_by_its_own_factor(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "lq", "gt", "--checkpoint", stage2, "--device", "cpu", "--control", "0,1", "--metrics", "psnr")
    assert "grid_energy" not in written("summary.json")
    run("evaluate", "lq", "gt", "--checkpoint", stage2, "--device", "cpu", "--control", "0,1")
    restorer = Restorer.from_pretrained(stage2, "cpu")
    metric = GridEnergy(restorer.model.codec.factor)
    for key in KEYS:
        metric.update(restorer(read_image(f"lq/{key}.png")[None], 1.0), read_image(f"gt/{key}.png")[None])
    summary = written("summary.json")
    check, results = summary["grid_energy"], {r["setting"]: r["grid_energy"] for r in summary["results"]}
    assert check["values"]["t=1.00"] == results["t=1.00"] == pytest.approx(metric.compute().item(), abs=1e-5)
    assert check["values"].keys() == {"t=0.00", "t=1.00"}
    assert check["bicubic"] == results["bicubic"]
    assert check["factor"] == 4
    assert check["sentence"] in capsys.readouterr().out
    run("evaluate", "lq", "gt", "--checkpoint", stage2, "--device", "cpu", "--control", "1", "--grid-factor", "8")
    assert written("summary.json")["grid_energy"]["factor"] == 8


def test_a_sweep_reports_it_beside_its_curves(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gt", "gt", "--lq", "lq", "--control", "0,1", "--metrics", "grid_energy"]
    run("sweep", "--checkpoint", stage2, "--device", "cpu", *words)
    tradeoff = written("tradeoff.json")
    assert tradeoff["grid_energy"]["values"] == {
        r["setting"]: r["grid_energy"] for r in tradeoff["results"] if r["kind"] == "ctsr"
    }
    assert len(column()) == 2 * 3
    assert "grid_energy" not in tradeoff["frontier"]["monotone"]["CTSR"]
    out = capsys.readouterr().out
    assert tradeoff["grid_energy"]["sentence"] in out
    assert "grid_energy → 1" in out
    page = Path("out/tradeoff.html").read_text(encoding="utf-8")
    assert "grid_energy: " in page  # under the pointer
    assert "up: grid_energy" not in page  # no axis: neither end is the better one


@pytest.fixture
def large() -> None:
    """A photo that a lattice's window fits into, the same with patches of 4 x 4, and its quarter."""
    gt = torch.rand(3, 128, 192, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    write_image("large/gt/c.png", gt)
    write_image("large/lattice/c.png", gt + torch.rand(3, 4, 4).mul(0.2).repeat(1, 32, 48))
    write_image("large/lq/c.png", torch.nn.functional.avg_pool2d(gt, 4))


@pytest.mark.usefixtures("large")
def test_files_with_a_lattice(capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "large/lattice", "large/gt", "--metrics", "psnr,lattice_4,lattice_8")
    truth, image = (read_image(f"large/{name}/c.png")[None] for name in ("gt", "lattice"))
    summary, out = written("summary.json"), capsys.readouterr().out
    for period in (4, 8):
        own, expected = (Lattice(period).values(x).item() for x in (truth, image))
        assert column(f"lattice_{period}") == pytest.approx([expected], abs=1e-7)
        check = summary["lattice"][f"lattice_{period}"]
        assert (check["values"]["restored"], check["gt"]) == pytest.approx((expected, own), abs=1e-9)
        assert check["sentence"] in out
    assert summary["lattice"]["lattice_4"]["holds"] is False
    assert "| psnr_y ↑ | lattice_4 dB → gt | lattice_8 dB → gt |" in out
    assert f"| ground truth |  | {Lattice(4).values(truth).item():.4f} |" in out


def test_images_too_small_for_a_lattice_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "painted", "gt", "--metrics", "psnr,lattice_8")
    with Path("out/per_image.csv").open(newline="", encoding="utf-8") as file:
        assert [row["lattice_8"] for row in csv.DictReader(file)] == ["", ""]
    assert written("summary.json")["results"][0]["lattice_8"] is None
    assert written("summary.json")["lattice"] == {}
    out = capsys.readouterr().out
    assert "nan" not in out
    assert "ground truth |" not in out


@pytest.mark.usefixtures("large")
def test_a_sweep_looks_for_lattices(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gt", "large/gt", "--lq", "large/lq", "--control", "0,1", "--metrics", "lattice_4"]
    run("sweep", "--checkpoint", stage2, "--device", "cpu", *words)
    tradeoff, out = written("tradeoff.json"), capsys.readouterr().out
    for name in ("lattice_4", "lattice_8"):
        check = tradeoff["lattice"][name]
        assert check["values"] == {r["setting"]: r[name] for r in tradeoff["results"] if r["kind"] == "ctsr"}
        assert check["sentence"] in out
        assert name not in tradeoff["frontier"]["monotone"]["CTSR"]
    entry = figure("noise", "noise", tradeoff)
    assert tradeoff["lattice"]["lattice_4"]["sentence"] in entry["sentences"]
    assert entry["ground_truth"]["lattice_4"] == tradeoff["lattice"]["lattice_4"]["gt"]
    assert f"| ground truth |  |  |  |  | {entry['ground_truth']['lattice_4']:.4f} |" in "\n".join(
        figure_sections(entry)
    )


@pytest.mark.parametrize("step", [0.0, 0.02])
def test_the_sentence_names_the_values_of_t(step: float) -> None:
    """A model that gives back the ground truth, and at t = 1 with a grid."""
    measurements = Measurements({"grid_energy": GridEnergy(8)})
    gt = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    for control, image in ((0.0, gt), (1.0, gt + grid(32, 40, 8, step))):
        measurements.add("a", Restoration(Method(f"t={control:.2f}", "ctsr", control), image), gt)
    (sentence,) = caveats(measurements)
    if step:
        assert sentence.startswith("**Grid energy leaves the 3 % around the ground truth's** at t=1.00 (+")
        assert "t=0.00" not in sentence
    else:
        assert "within 3 % of the ground truth's for every t (" in sentence
    assert record(measurements, {}, {})["grid_energy"]["holds"] is (step == 0.0)
    assert "| grid_energy → 1 |" in markdown(measurements, "here")
