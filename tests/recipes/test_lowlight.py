"""`python -m recipes lowlight`: the chain at scale 1 trained for a moment, its table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctsr_lightning.images import read_image, write_image
from helpers.drawn_photos import draw_photo
from recipes.__main__ import main
from recipes.lowlight import lowlight


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without LPIPS's weights, in the project's folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setenv("CTSR_RUNS", "before")
    monkeypatch.chdir(Path(__file__).parents[2])


def draw_pairs(root: Path, number: int, size: tuple[int, int]) -> None:
    for i in range(number):
        high = draw_photo(*size, i)
        write_image(root / "high" / f"{i}.png", high)
        write_image(root / "low" / f"{i}.png", 0.2 * high)


@pytest.mark.slow
def test_a_table_as_the_paper_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "lol", tmp_path / "run"
    draw_pairs(data / "our485", 5, (256, 260))
    draw_pairs(data / "eval15", 2, (44, 60))
    words = ["lowlight", "--data", str(data), "--output", str(output), "--steps", "0.0002", "--device", "cpu"]
    main(words)
    page = (output / "lowlight.md").read_text(encoding="utf-8")
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if line.startswith("|")}
    names = ["input", "T_f", "T_r", "half T_f, half T_r", "distilled", "distilled, t = 0.5", "distilled, t = 1"]
    assert [name for name in table if name in names] == names
    pairs = [[read_image(data / "eval15" / side / f"{i}.png") for side in ("low", "high")] for i in range(2)]
    psnr = [-10 * (low - high).square().mean().log10() for low, high in pairs]
    assert float(table["input"][0]) == pytest.approx(torch.stack(psnr).mean().item(), abs=0.006)
    assert float(table["input"][1]) > float(table["input"][0]) + 10  # 0.2 * high, but for rounding, is high
    weights = load_file(output / "lowlight" / "stage1" / "weights.safetensors").values()
    assert float(table["distilled"][-1]) == pytest.approx(sum(w.numel() for w in weights) / 1e6, abs=0.006)
    record = json.loads((output / "evaluation" / "summary.json").read_text())
    assert record["settings"]["skipped_metrics"] == ["lpips_alex", "lpips_vgg", "lpips_squeeze"]
    found = {result["setting"]: result["psnr_rgb"] for result in record["results"]}
    (told,) = re.findall(r"psnr_rgb ([+-][\d.]+) ±", page)
    assert float(told) == pytest.approx(found["t=0.00"] - found["T_f"], abs=0.006)
    assert "Trained on 5 pairs (fidelity_teacher 2 steps" in page
    assert "| GSAD (distilled)" in page
    assert "![Test images by every method](lowlight_images.jpg)" in page
    assert read_image(output / "lowlight_images.jpg").shape[-1] > 6 * 60  # input, T_f, T_r, three t, ground truth
    capsys.readouterr()
    main([*words, "--examples", "0", "--page", str(tmp_path / "pages" / "dark.md")])
    assert "![" not in (tmp_path / "pages" / "dark.md").read_text(encoding="utf-8")
    assert len(list((tmp_path / "pages").iterdir())) == 1
    capsys.readouterr()
    main(words)  # all is there
    assert capsys.readouterr().out.count("complete:") == 5


def test_mistakes_cost_nothing(tmp_path: Path) -> None:
    draw_pairs(tmp_path / "lol" / "our485", 1, (16, 16))
    with pytest.raises(FileNotFoundError, match="eval15"):
        lowlight(output=tmp_path / "run", data=tmp_path / "lol")
    draw_pairs(tmp_path / "lol" / "eval15", 1, (16, 16))
    for options, message in (
        ({"steps": 0.0}, r"Expected a positive --steps, found 0\.0"),
        ({"chain": str(tmp_path)}, r"Expected a finished chain with 'codec/weights\.safetensors' in .*found none"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            lowlight(output=tmp_path / "run", data=tmp_path / "lol", **options)
    assert not (tmp_path / "run").exists()
