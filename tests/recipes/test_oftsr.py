"""`python -m recipes oftsr`: OFTSR's pair trained for a moment, both sliders measured, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctsr_lightning.images import write_image
from helpers.drawn_photos import draw_photo
from recipes.__main__ import main
from recipes.oftsr import oftsr


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without LPIPS's weights, in the project's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("CTSR_RUNS", "before")
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.mark.slow
def test_both_sliders_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, test, output = tmp_path / "photos", tmp_path / "held", tmp_path / "run"
    for i in range(8):
        write_image(photos / f"{i}.png", draw_photo(256, 256, i))
    write_image(test / "one.png", draw_photo(96, 96, 8))
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "oftsr_reading.md").write_text("A remark.\n", encoding="utf-8")
    words = ["--photos", str(photos), "--test", str(test), "--output", str(output), "--steps", "0.0002", "--seeds", "2"]
    words += ["--crop", "64", "--device", "cpu", "--page", str(tmp_path / "page")]
    main(["oftsr", *words])
    record: dict[str, Any] = json.loads((output / "sweeps" / "held" / "tradeoff.json").read_text(encoding="utf-8"))
    curves = [row["curve"] for row in record["results"] if row["curve"]]
    assert {c: curves.count(c) for c in curves} == {
        "CTSR": 6,
        "OFTSR": 6,
        "flow": 4,
        "CTSR's own ends": 4,
        "OFTSR's own ends": 4,
        "T_f/T_r blend": 4,
    }
    page = (tmp_path / "page" / "oftsr.md").read_text(encoding="utf-8")
    assert "A remark." in page
    assert "flow_teacher 2 steps in" in page
    assert "![The plane of held](oftsr_held.png)" in page
    assert (tmp_path / "page" / "oftsr_held.png").is_file()
    assert "| OFTSR t=0.40 |" in page
    capsys.readouterr()
    main(["oftsr", *words])  # all is there
    assert capsys.readouterr().out.count("complete:") == 3


def test_mistakes_cost_nothing(tmp_path: Path) -> None:
    for options, message in (
        ({"steps": 0.0}, r"Expected a positive --steps, found 0\.0"),
        ({"chain": str(tmp_path)}, r"Expected a finished chain with 'codec/weights\.safetensors' in .*found none"),
        ({"test": f"{tmp_path / 'nothing'}"}, r"Expected a folder or a data configuration in --test, found nothing"),
        ({"test": f"{tmp_path},{tmp_path}"}, "Expected test sets of different names, found .* twice"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            oftsr(output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
