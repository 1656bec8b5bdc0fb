"""`ctsr sweep` from the command line to its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.commands.sweep import sweep
from ctsr_lightning.images import read_image, write_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.distortion import psnr_y
from helpers import tiny_experts

KEYS = ["checker", "waves"]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs, and a machine without LPIPS's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    checker, waves = ((rows // 8 + columns // 8) % 2), (torch.sin(rows / 5) * torch.cos(columns / 7) + 1) / 2
    for key, image in zip(KEYS, (checker, waves), strict=True):
        write_image(f"gt/{key}.png", image.expand(3, -1, -1))
        write_image(f"lq/{key}.png", torch.nn.functional.avg_pool2d(image[None], 4)[0].expand(3, -1, -1))


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def run(stage2: str, *words: str) -> None:
    main(["sweep", "--checkpoint", stage2, "--device", "cpu", "--output", "out", *words])


def test_pairs(stage2: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(stage2, "--gt", "gt", "--lq", "lq", "--control", "0,0.5,1")
    assert {p.name for p in Path("out").iterdir()} == {
        "tradeoff.csv", "per_image.csv", "tradeoff.md", "tradeoff.png", "tradeoff.html", "tradeoff.json",
        "examples.png",
    }  # fmt: skip
    means, images = table("out/tradeoff.csv"), table("out/per_image.csv")
    assert [row["setting"] for row in means] == ["bicubic", "t=0.00", "t=0.50", "t=1.00"]
    assert [row["image"] for row in images] == [key for key in KEYS for _ in range(4)]
    restorer = Restorer.from_pretrained(stage2, "cpu")
    for control in (0.0, 0.5, 1.0):
        expected = [
            float(psnr_y(restorer(read_image(f"lq/{k}.png")[None], control), read_image(f"gt/{k}.png")[None]))
            for k in KEYS
        ]
        found = [float(row["psnr_y"]) for row in images if row["t"] == str(control)]
        assert found == pytest.approx(expected, abs=1e-5)
        (mean,) = [float(row["psnr_y"]) for row in means if row["t"] == str(control)]
        assert mean == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert read_image("out/tradeoff.png").shape[2] > 400
    record = json.loads(Path("out/tradeoff.json").read_text())
    assert record["images"] == 2
    assert record["settings"]["perceptual"] == "texture_distance"
    assert record["settings"]["perceptual_is_lpips"] is False
    assert record["settings"]["checkpoint"] == stage2
    assert record["versions"].keys() >= {"ctsr-lightning", "torch", "python"}
    assert [r["t"] for r in record["results"]] == [None, 0.0, 0.5, 1.0]
    out = capsys.readouterr().out
    assert "texture_distance is this project's stand-in, not LPIPS" in out
    assert Path("out/tradeoff.md").read_text() in out
    assert "lpips" not in Path("out/tradeoff.csv").read_text()


@pytest.mark.slow
def test_the_shipped_model_and_its_teachers(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--gt", "gt", "--lq", "lq", "--control", "0,1", "--alphas", "0.5", "--device", "cpu"])
    record = json.loads(Path("runs/sweep/tradeoff.json").read_text())
    assert record["name"] == record["settings"]["checkpoint"]
    assert record["name"].startswith("nano (shipped with ctsr_lightning")
    assert str(shipped) not in json.dumps(record)
    assert {"T_f", "T_r", "t=1.00"} <= {row["setting"] for row in record["results"]}
    assert capsys.readouterr().err.count("model: nano") == 1


def test_the_blend_of_the_teachers_is_the_rival(taught: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(taught, "--gt", "gt", "--lq", "lq", "--control", "0,0.5,1", "--alphas", "0.5")
    labels = [row["setting"] for row in table("out/tradeoff.csv")]
    assert labels == ["bicubic", "T_f", "T_r", "blend α=0.50", "t=0.00", "t=0.50", "t=1.00"]
    frontier = json.loads(Path("out/tradeoff.json").read_text())["frontier"]
    monotone = frontier["monotone"].pop("CTSR")
    assert not frontier["monotone"]
    assert monotone.keys() == {"psnr_y", "ssim_y", "texture_distance"}
    assert monotone["psnr_y"]["improving"] is True
    assert monotone["texture_distance"]["improving"] is False
    (blend,) = frontier["compared"]
    assert blend["curve"]["points"] == 3
    assert blend["other"]["points"] == 3  # the teachers are its ends
    assert blend["sentence"] in capsys.readouterr().out
    page = Path("out/tradeoff.html").read_text(encoding="utf-8")
    for label in ("bicubic", "T_f", "t=0.50"):
        assert label in page


@pytest.mark.slow
def test_seeded_degradation(stage2: str) -> None:
    words = ["--gt", "gt", "--control", "0", "--degradation", "light"]
    columns = []
    for seed in ("0", "0", "1"):
        run(stage2, *words, "--seed", seed)
        columns.append([row["psnr_y"] for row in table("out/per_image.csv")])
    assert columns[0] == columns[1] != columns[2]


def test_one_pass_per_image(stage2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    trajectory = Restorer.trajectory
    monkeypatch.setattr(Restorer, "trajectory", lambda self, lq, keys: passes.append(1) or trajectory(self, lq, keys))
    run(stage2, "--gt", "gt", "--lq", "lq", "--control", "0,0.1,0.2,0.3")
    assert len(passes) == 2 + 1  # the first image warms the device up, unmeasured


def test_built_in_photos_cropped_and_limited(stage2: str) -> None:
    pytest.importorskip("skimage")
    run(stage2, "--crop", "64", "--repeats", "2", "--limit", "3", "--control", "0,1")
    assert len({row["image"] for row in table("out/per_image.csv")}) == 3
    assert json.loads(Path("out/tradeoff.json").read_text())["source"].startswith("photos of scikit-image")


def test_stage_one_has_one_point(stage1: str) -> None:
    words = {"gt": "gt", "lq": "lq", "device": "cpu", "output": "out", "baselines": "bicubic"}
    with pytest.raises(ValueError, match="model without a slider"):
        sweep(stage1, **words)
    sweep(stage1, control="0", **words)
    assert [row["setting"] for row in table("out/tradeoff.csv")] == ["bicubic", "t=0.00"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lq", "lq"], "Expected the ground truth of 'lq' as well"),
        (["--gt", "gt", "--repeats", "2"], "Expected --crop with --repeats"),
        (["--gt", "gt", "--limit", "0"], "Expected --limit of at least 1"),
        (["--gt", "nothing"], "'nothing'"),
        (["--gt", "gt", "--lq", "gt_only_one"], "partner"),
        (["--gt", "gt", "--control", "2"], "Expected values of t"),
    ],
)
def test_mistakes_are_explained(
    stage2: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image("gt_only_one/waves.png", torch.zeros(3, 12, 16))
    with pytest.raises(SystemExit) as end:
        run(stage2, *words)
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error


def test_published_networks_stand_beside_the_curve(stage2: str) -> None:
    tiny_experts.saved(Path("light.pth"))
    run(stage2, "--gt", "gt", "--lq", "lq", "--control", "0,1", "--expert", "light.pth", "--baselines", "bicubic")
    label = "light (RealESRGAN Compact)"
    assert [row["setting"] for row in table("out/tradeoff.csv")] == ["bicubic", label, "t=0.00", "t=1.00"]
    assert label in Path("out/tradeoff.html").read_text(encoding="utf-8")
    assert json.loads(Path("out/tradeoff.json").read_text())["settings"]["experts"][0]["file"] == "light.pth"


@pytest.mark.filterwarnings("ignore:`test`")
def test_the_report_says_what_is_damaged_and_what_transparent(stage2: str) -> None:
    Path("gt/broken.png").write_bytes(Path("gt/waves.png").read_bytes()[:60])
    Path("gt/gone.png").symlink_to("nowhere.png")
    Image.new("RGBA", (32, 32), (200, 0, 0, 90)).save("gt/glass.png")
    run(stage2, "--gt", "gt", "--control", "0", "--baselines", "none", "--examples", "0")
    report = Path("out/tradeoff.md").read_text(encoding="utf-8")
    assert "**2 of 5 images are left out: " in report
    assert all(name in report for name in ("broken.png", "gone.png': a link that leads nowhere"))
    assert "**1 of 3 images have transparent pixels and were laid over white: 'glass.png'.**" in report
