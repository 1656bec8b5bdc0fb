"""`python -m recipes methods`: methods trained for a moment, measured side by side, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.inference.restorer import Restorer
from helpers.drawn_photos import draw_photo
from recipes.__main__ import main
from recipes.chain import Length, Link
from recipes.methods import run
from recipes.methods.page import comparisons, passes
from recipes.methods.run import methods


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without LPIPS's weights, in the project's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("CTSR_RUNS", "before")
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Options for a moment of training, on drawn photographs."""
    photos, test = tmp_path / "photos", tmp_path / "held"
    for i in range(8):
        write_image(photos / f"{i}.png", draw_photo(256, 256, i))
    write_image(test / "one.png", draw_photo(96, 96, 8))
    page = tmp_path / "page"
    page.mkdir()
    (page / "methods_reading.md").write_text("A remark.\n", encoding="utf-8")
    words = ["--photos", str(photos), "--test", str(test), "--output", str(tmp_path / "run"), "--seeds", "2"]
    return [*words, "--crop", "64", "--device", "cpu", "--page", str(page)]


def curves(record: dict[str, Any]) -> dict[str, int]:
    """Points of each curve."""
    found = [row["curve"] for row in record["results"] if row["curve"]]
    return {curve: found.count(curve) for curve in found}


@pytest.mark.slow
def test_methods_beside_the_chains_own(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "configured_steps", lambda *_: 2)
    words += ["--only", "OFTSR,AddSR,CCSR,CCSR+detail", "--minutes", "null"]
    main(["methods", *words])
    output = tmp_path / "run"
    student = yaml.safe_load((output / "detail" / "config.yaml").read_text(encoding="utf-8"))
    student = student["model"]["init_args"]["student"]
    assert student["class_path"].endswith("FewStepStudent")
    assert student["init_args"]["weights"] == str((output / "structure" / "weights.safetensors").resolve())
    record = json.loads((output / "sweeps" / "held" / "tradeoff.json").read_text(encoding="utf-8"))
    found = curves(record)
    assert (found["CTSR"], found["CCSR+detail"], found["CCSR's own ends"], found["T_f/T_r blend"]) == (3, 3, 1, 1)
    assert (found["OFTSR"], found["OFTSR flow"], found["AddSR in steps"], found["CCSR in steps"]) == (3, 5, 4, 2)
    page = (tmp_path / "page" / "methods.md").read_text(encoding="utf-8")
    assert "A remark." in page
    assert "their configured lengths" in page
    assert "structure 2 steps" in page
    assert "![The plane of held](methods_held.png)" in page
    assert "| CCSR+detail t=0.00 |" in page
    assert "| CTSR / OFTSR |" in page
    assert "own ends α" not in page
    assert read_image(tmp_path / "page" / "methods_held_images.jpg").shape[-1] > 5 * 64
    capsys.readouterr()
    main(["methods", *words])  # all is there
    assert capsys.readouterr().out.count("complete:") == 7


def test_curves_are_compared_in_a_table() -> None:
    def curve(name: str, dominated: int, *single: str) -> dict[str, Any]:
        return {"name": name, "points": 3, "dominated": dominated, "hypervolume": 0.25, "beats_all": list(single)}

    found = {"curve": curve("A", 1), "other": curve("B", 0, "t=0.50"), "dominates": False, "dominated": True}
    found |= {"x": {"name": "psnr_y"}, "y": {"name": "lpips_squeeze"}, "reference": [20.0, 0.5]}
    text = comparisons({"frontier": {"compared": [found]}})
    assert "PSNR-Y 20.0000, LPIPS-Squeeze 0.5000" in text
    assert text.splitlines()[-1] == "| A / B | B | 1 of 3 / 0 of 3 | 0.2500 / 0.2500 | B t=0.50 |"
    assert comparisons({"frontier": {"compared": []}}) == ""


def test_the_pace_of_a_few_steps_tells_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    clock = [100.0]

    def train(command: str, configs: Path, output: Path, link: Link, length: Length, *_: object) -> float:
        clock[0] += 0.0 if seen else 20.0 * torch.get_num_threads()  # what loads once belongs to no step
        seen.append(length.steps)
        assert (output / "codec" / "weights.safetensors").is_file()  # what it starts from is there, it leaves nothing
        clock[0] += (7.0 + 0.5 * length.steps) * torch.get_num_threads()
        return 1e6

    monkeypatch.setattr(run, "train_link", train)
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "weights.safetensors").write_bytes(b"")
    arguments = Path("configs/nano"), tmp_path, run.PRIOR, ["--data.x", "1"], "cpu"
    assert run._affordable(*arguments, 600.0) == 1200
    assert seen == list(run.PACE)
    assert run._affordable(*arguments, 60.0) == 1200  # as recorded
    assert seen == list(run.PACE)


def test_shares_of_each_methods_time() -> None:
    shares = {each.name: sum(each.shares) for each in run.METHODS}
    assert shares == pytest.approx(dict.fromkeys(shares, 1.0) | {"CCSR+detail": 1.2})
    assert {each.name for each in run._chosen([])} == shares.keys()


def test_passes_of_the_shipped_model() -> None:
    restorer = Restorer.from_pretrained(device="cpu")
    found = passes(restorer)
    assert (found.image, found.further) == (2, 0)  # the student and the velocity, once
    assert found.parameters == sum(p.numel() for p in restorer.model.parameters())


def test_mistakes_cost_nothing(tmp_path: Path) -> None:
    for options, message in (
        ({"minutes": 0.0}, r"Expected positive --minutes, or null for the configured lengths, found 0\.0"),
        ({"only": "SUPIR"}, "Expected methods of CTSR, OFTSR, AddSR, CCSR, CCSR.detail in --only, found 'SUPIR'"),
        ({"chain": str(tmp_path)}, r"Expected a finished chain with 'codec/weights\.safetensors' in .*found none"),
        ({"test": f"{tmp_path / 'nothing'}"}, r"Expected a folder or a data configuration in --test, found nothing"),
        ({"test": f"{tmp_path},{tmp_path}"}, "Expected test sets of different names, found .* twice"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            methods(output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
