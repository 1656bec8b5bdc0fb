"""`ctsr demo`, with two steps per training: everything it promises is there, and it goes on where it stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from ctsr_lightning.cli import main
from ctsr_lightning.commands.chain import CHAIN

ROOT = Path(__file__).parents[2]
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
    for link in CHAIN:
        assert (output / link.name / "weights.safetensors").is_file()
        assert list((output / link.name).glob("events.out.tfevents.*"))


def test_its_figures_say_what_they_are(output: Path) -> None:
    record = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert record["perceptual_distance"] == {"name": "texture_distance", "is_lpips": False}
    assert record["test"].keys() >= {"test/psnr_y/t=0.00", "test/psnr_y/t=1.00", "test/texture_distance/t=0.50"}
    settings = [row["setting"] for row in record["sweep"]]
    assert settings[:3] == ["bicubic", "T_f", "T_r"]
    assert settings[-5:] == [f"t={t:.2f}" for t in (0, 0.25, 0.5, 0.75, 1)]
    assert record["seconds"].keys() == {*(link.name for link in CHAIN), "evaluation"}


def test_a_finished_training_is_not_repeated(
    words: list[str], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / "stage2" / "weights.safetensors").unlink()  # as after Ctrl-C in the last training
    before = {link.name: (output / link.name / "checkpoints" / "last.ckpt").stat().st_mtime_ns for link in CHAIN}
    main([*words, "--device", "cpu"])
    after = {link.name: (output / link.name / "checkpoints" / "last.ckpt").stat().st_mtime_ns for link in CHAIN}
    assert capsys.readouterr().out.count("complete:") == len(CHAIN) - 1
    assert {name for name in before if before[name] != after[name]} <= {"stage2"}
    assert (output / "stage2" / "weights.safetensors").is_file()


def test_other_photographs_need_another_folder(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "photo.png")
    with pytest.raises(SystemExit) as end:
        main([*words, "--data", str(tmp_path)])
    assert end.value.code == 1
    assert "was trained on the sample photographs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere', found nothing"),
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


@pytest.mark.usefixtures("words")
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "tradeoff.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert printed.count("PSNR-Y") == 5
