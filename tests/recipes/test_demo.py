"""`make demo`, shortened: its trade-off runs the right way, it leaves what it promises and goes on where it stopped."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from ctsr_lightning.weights.shipped import shipped_folder
from recipes.__main__ import main
from recipes.demo import EXPERTS, judge_tradeoff

ROOT = Path(__file__).parents[2]
STAGES = ("stage1", "stage2")
BROUGHT = [name for name in EXPERTS if (shipped_folder() / name).is_dir()]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(finished_demo: list[str]) -> Iterator[list[str]]:
    """The command line of a finished demo, where it was made."""
    output = Path(finished_demo[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(output.parent))
        patch.setenv("CTSR_RUNS", str(output))
        yield finished_demo


@pytest.fixture
def output(words: list[str]) -> Path:
    return Path(words[2])


def test_it_leaves_what_it_promises(output: Path) -> None:
    assert "plotly" in (output / "tradeoff.html").read_text(encoding="utf-8")
    for name in ("tradeoff.png", "grid.png"):
        with Image.open(output / name) as image:
            assert min(image.size) > 200
    assert len(list((output / "restored").glob("*.png"))) == 2 * 5
    for name in STAGES:
        assert (output / name / "weights.safetensors").is_file()
        assert list((output / name).glob("events.out.tfevents.*"))
    assert not (output / "cache").exists()


def test_it_starts_from_the_package_s_experts(output: Path) -> None:
    for name in BROUGHT:
        package, brought = (folder / name / "weights.safetensors" for folder in (shipped_folder(), output))
        assert package.read_bytes() == brought.read_bytes()
    for name in STAGES:
        text = (output / name / "config.yaml").read_text(encoding="utf-8")
        assert f"weights: {output / 'realness_teacher' / 'weights.safetensors'}" in text
        assert str(shipped_folder()) not in text


def test_the_perceptual_side_runs_the_right_way_after_a_few_steps(output: Path) -> None:
    """Realness at t = 0, fidelity at t = 1: what no change of a loss, a sign or a start may turn round."""
    record = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    rows = {row["setting"]: row for row in record["sweep"]}
    distance = [rows[f"t={t:.2f}"]["texture_distance"] for t in (0, 0.5, 1)]
    assert min(distance[1:]) > distance[0] + 0.0004
    for setting, other, metric in (("T_f", "T_r", "psnr_y"), ("T_f", "T_r", "texture_distance")):
        assert rows[setting][metric] > rows[other][metric]


def test_psnr_rises_with_t(output: Path) -> None:
    """What t is for must not turn round unseen. Near t = 1 PSNR may fall back a little, as T_f's does against the blend
    of both teachers: errors that two networks do not share average out (Table 1 of the paper)."""
    record = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    psnr = [row["psnr_y"] for row in record["sweep"] if row["setting"].startswith("t=")]
    assert psnr[:3] == sorted(psnr[:3])
    assert psnr[-1] > max(psnr) - 0.15
    assert psnr[-1] > psnr[0] + 0.1  # after a fifth of the length; at full length by 0.4, which the verdict asks for


def test_its_figures_say_what_they_are(output: Path) -> None:
    record = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert record["perceptual_distance"] == {"name": "texture_distance", "is_lpips": False}
    assert record["test"].keys() >= {"test/psnr_y/t=0.00", "test/psnr_y/t=1.00", "test/texture_distance/t=0.50"}
    settings = [row["setting"] for row in record["sweep"]]
    assert settings[:3] == ["bicubic", "T_f", "T_r"]
    assert settings[-5:] == [f"t={t:.2f}" for t in (0, 0.25, 0.5, 0.75, 1)]
    assert record["seconds"].keys() == {"stage1", "cache", "stage2", "evaluation"}
    assert record["verdict"].keys() == {"holds", "findings"}
    assert len(record["verdict"]["findings"]) == 5


def test_a_finished_training_is_not_repeated(
    words: list[str], output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the last training; what is left of it needs few crops."""
    for name, value in (("POOL", 8), ("CROP", 64), ("REPEATS", 1), ("LARGEST", 64)):
        monkeypatch.setattr(f"recipes.demo.{name}", value)
    (output / "stage2" / "weights.safetensors").unlink()
    before = (output / "stage1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    main([*words, "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.count("complete:") == 1
    assert (output / "stage1" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert (output / "stage2" / "weights.safetensors").is_file()
    findings = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["verdict"]["findings"]
    assert all(finding["text"] in out for finding in findings)
    assert out.count("NOT AS EXPECTED") == sum(not finding["holds"] for finding in findings)


def test_other_photographs_need_another_folder(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path, 5)
    with pytest.raises(SystemExit) as end:
        main([*words, "--photos", str(tmp_path)])
    assert end.value.code == 1
    assert "was trained on the sample photographs" in capsys.readouterr().err


def photographs(folder: Path, count: int) -> None:
    for number in range(count):
        Image.new("RGB", (300, 300)).save(folder / f"photo{number}.png")


def test_other_experts_need_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "codec").mkdir(parents=True)
    (tmp_path / "run" / "codec" / "weights.safetensors").write_bytes(b"of `python -m recipes nano`")
    with pytest.raises(SystemExit):
        main(["demo", "--output", str(tmp_path / "run"), "--configs", str(ROOT / "configs" / "nano")])
    assert "Expected the package's own codec" in capsys.readouterr().err
    assert not (tmp_path / "run" / "realness_teacher").exists()


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_photographs_are_refused_and_not_remembered(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few").mkdir()
    photographs(tmp_path / "few", count)
    with pytest.raises(SystemExit) as end:
        main(["demo", "--output", str(tmp_path / "run"), "--configs", str(ROOT / "configs" / "nano"),
              "--photos", str(tmp_path / "few")])  # fmt: skip
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert ("Expected at least 5 photographs" if count > 1 else "Expected enough images to hold out 1") in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--photos", "nowhere"], "nowhere', found nothing"),
        (["--configs", "nowhere"], "Expected the nano configurations in 'nowhere'"),
        (["--steps", "0"], "Expected a positive --steps"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_trained(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--output", str(tmp_path / "run"), "--configs", str(ROOT / "configs" / "nano"), *options]
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err


def report(psnr: dict[str, float], distance: dict[str, float], monotone: bool = True, flat: bool = False) -> Any:
    along = {"sentence": "lpips along t.", "holds": monotone, "flat": flat}
    rows = [{"setting": name, "psnr_y": psnr[name], "lpips": distance[name]} for name in psnr]
    return {"settings": {"perceptual": "lpips"}, "results": rows, "frontier": {"monotone": {"CTSR": {"lpips": along}}}}


GOOD = (
    {"bicubic": 24.5, "T_f": 25.1, "T_r": 24.3, "t=0.00": 24.4, "t=1.00": 25.0},
    {"bicubic": 0.6, "T_f": 0.5, "T_r": 0.3, "t=0.00": 0.3, "t=1.00": 0.45},
)


def test_a_good_trade_off_is_as_expected() -> None:
    findings = judge_tradeoff(report(*GOOD))
    assert [finding.holds for finding in findings] == [True] * 5
    assert findings[0].text.startswith("PSNR-Y at t = 1 is 0.60 dB above that of t = 0 (25.00 and 24.40; at least 0.4")


@pytest.mark.parametrize(
    ("axis", "setting", "value", "off"),
    [
        (0, "t=0.00", 24.7, [0]),
        (0, "t=0.00", 25.5, [0]),
        (0, "bicubic", 24.7, [1]),
        (0, "T_f", 24.2, [3]),
        (1, "T_r", 0.55, [4]),
    ],
)
def test_each_thing_that_is_off_is_named(axis: int, setting: str, value: float, off: list[int]) -> None:
    figures = copy.deepcopy(GOOD)
    figures[axis][setting] = value
    assert [index for index, finding in enumerate(judge_tradeoff(report(*figures))) if not finding.holds] == off


@pytest.mark.parametrize("options", [{"monotone": False}, {"flat": True}])
def test_a_perceptual_distance_that_does_not_rise_is_off(options: dict[str, bool]) -> None:
    assert [finding.holds for finding in judge_tradeoff(report(*GOOD, **options))] == [True, True, False, True, True]


@pytest.mark.processes
@pytest.mark.usefixtures("words")
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "tradeoff.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert printed.count("PSNR-Y") == 5
