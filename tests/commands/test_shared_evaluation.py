"""`ctsr evaluate` and `ctsr sweep` shared among processes, interrupted, and gone on with: the report of one process."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from ctsr_lightning.cli import main
from ctsr_lightning.evaluation.evaluate import evaluate_folder, evaluate_model
from ctsr_lightning.evaluation.records import Records
from ctsr_lightning.images import write_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.frechet import FrechetDistance
from ctsr_lightning.metrics.named import NAMED
from ctsr_lightning.share import Share
from ctsr_lightning.training import INTERRUPTED
from helpers import evaluation_runs
from helpers.evaluation_dummies import Features
from helpers.processes import several_processes

COUNT = 5
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
REPORT = {"per_image.csv", "summary.json", "summary.md"}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five pairs at x4 with restored images; `fid` compares means and deviations of colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(NAMED, "fid_inception_clean", lambda: FrechetDistance(Features()))
    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        gt = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=generator), scale_factor=8)[0]
        write_image(f"gt/{number}.png", gt)
        write_image(f"restored/{number}.png", (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1))
        write_image(f"lq/{number}.png", torch.nn.functional.avg_pool2d(gt, 4))


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).glob("*")}


def evaluate(output: str, *words: str) -> None:
    main(["evaluate", *words, "--metrics", "psnr,ssim,fid,lattice_4", "--device", "cpu", "--output", output])


def shared(count: int, command: Any, output: str, *words: str) -> None:
    """The parts one after the other, the last first."""
    for rank in reversed(range(count)):
        assert not REPORT & names(output)
        command(output, *words, "--rank", str(rank), "--ranks", str(count))


def timeless(folder: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """A report without its times."""
    with (Path(folder) / "per_image.csv").open(newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    (name,) = {"summary.json", "tradeoff.json"} & names(folder)
    summary = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    for result in summary["results"]:
        del result["seconds"], result["further"]
    return rows, summary


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_folders_shared_among_processes(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("whole", "restored", "gt")
    shared(count, evaluate, "parts", "restored", "gt")
    assert names("parts") == REPORT
    for name in REPORT:
        assert (Path("parts") / name).read_bytes() == (Path("whole") / name).read_bytes()
    assert json.loads(Path("parts/summary.json").read_text())["results"][0]["fid_inception_clean"] > 0
    said = capsys.readouterr()
    assert said.out.count("of 5 images are measured, in 'parts/unfinished'") == count - 1
    assert ("measuring, part 1 of" in said.err) == (count > 1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_models_shared_among_processes(count: int, taught: str) -> None:
    words = ["lq", "gt", "--checkpoint", taught, "--control", "0,1", "--alphas", "0.5", "--seeds", "2"]
    evaluate("whole", *words)
    shared(count, evaluate, "parts", *words)
    assert timeless("parts") == timeless("whole")
    _, summary = timeless("parts")
    assert {r["setting"] for r in summary["results"]} == {"bicubic", "T_f", "T_r", "blend α=0.50", "t=0.00", "t=1.00"}
    assert all(r["fid_inception_clean"] > 0 for r in summary["results"])
    assert any(r["l_std"] > 0 for r in summary["results"])


def sweep(output: str, *words: str) -> None:
    main(["sweep", *words, "--gt", "gt", "--lq", "lq", "--metrics", "fid", "--device", "cpu", "--output", output])


@pytest.mark.slow
def test_sweeps_shared_among_processes(taught: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--checkpoint", taught, "--control", "0,0.5,1", "--alphas", "0.5", "--examples", "2"]
    sweep("whole", *words)
    for rank in range(2):
        with monkeypatch.context() as torchrun:
            torchrun.setenv("RANK", str(rank))
            torchrun.setenv("WORLD_SIZE", "2")
            sweep("parts", *words)
    assert timeless("parts") == timeless("whole")
    assert names("parts") == names("whole")
    assert Path("parts/examples.png").read_bytes() == Path("whole/examples.png").read_bytes()


def press_ctrl_c(patch: pytest.MonkeyPatch, after: int) -> None:
    write, done = Records.write, list[int]()

    def interrupted(self: Records, index: int, *args: Any) -> None:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(index)
        write(self, index, *args)

    patch.setattr(Records, "write", interrupted)


def test_an_interrupted_measurement_goes_on(
    stage2: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lq", "gt", "--checkpoint", stage2, "--control", "0,1", "--baselines", "bicubic"]
    evaluate("whole", *words)
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 3)
        with pytest.raises(SystemExit) as end:
            evaluate("out", *words)
    assert end.value.code == INTERRUPTED
    assert "The same command goes on after the last image" in capsys.readouterr().err
    records = sorted(Path("out/unfinished").glob("*.safetensors"))
    assert len(records) == 3
    records[0].write_bytes(records[0].read_bytes()[:-1])  # damaged, so measured again
    passes: list[int] = []
    trajectory = Restorer.trajectory
    monkeypatch.setattr(Restorer, "trajectory", lambda self, *args: passes.append(1) or trajectory(self, *args))
    evaluate("out", *words)
    assert len(passes) == 3 + 1  # the first warms the device up
    assert "2 images were measured before, in 'out/unfinished'; 3 are left" in capsys.readouterr().err
    assert names("out") == REPORT
    assert timeless("out") == timeless("whole")


def test_a_report_that_could_not_be_written_is_written_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device", "out/per_image.csv")

    with monkeypatch.context() as patch:
        patch.setattr("ctsr_lightning.evaluation.report.write_per_image", full)
        with pytest.raises(SystemExit):
            evaluate("out", "restored", "gt")
    monkeypatch.setattr("ctsr_lightning.evaluation.folders.measure", lambda pairs, *_: [full() for _ in pairs])
    evaluate("out", "restored", "gt")
    assert names("out") == REPORT


def test_other_settings_are_refused_by_name(
    stage2: str, taught: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, checkpoint: str = stage2) -> None:
        evaluate("out", "lq", "gt", "--checkpoint", checkpoint, "--baselines", "none", *words)

    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 2)
        with pytest.raises(SystemExit):
            run()
    for words, checkpoint, named in (
        (["--control", "0,1"], stage2, "controls: [0.0, 0.5, 1.0], now [0.0, 1.0]"),
        (["--limit", "4"], stage2, "limit: None, now 4; images: 5 of 10 files "),
        (["--seeds", "2"], stage2, "seeds: 1, now 2"),
        (["--crop-border", "1"], stage2, "border crop: 0, now 1"),
        (["--precision", "bfloat16"], stage2, "precision: float32, now bfloat16"),
        ([], taught, "model: "),
    ):
        with pytest.raises(SystemExit) as end:
            run(*words, checkpoint=checkpoint)
        assert end.value.code == 1
        error = capsys.readouterr().err
        assert "Expected the settings of the measurement that is unfinished in 'out/unfinished'" in error
        assert named in error
    write_image("gt/0.png", torch.rand(3, 48, 64))
    with pytest.raises(SystemExit):
        run()
    assert "images: 5 of 10 files" in capsys.readouterr().err
    run_elsewhere = ["lq", "gt", "--checkpoint", stage2, "--baselines", "none"]
    evaluate("elsewhere", *run_elsewhere)
    assert names("elsewhere") == REPORT


def test_a_finished_folder_takes_other_settings() -> None:
    evaluate("out", "restored", "gt")
    evaluate("out", "restored", "gt", "--crop-border", "2")
    assert json.loads(Path("out/summary.json").read_text())["protocol"]["border_crop"] == 2


def test_parts_need_a_folder_and_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Expected a folder `output`"):
        evaluate_folder("restored", "gt", share=Share(0, 2), device="cpu")
    for words in (["--rank", "0"], ["--rank", "2", "--ranks", "2"]):
        with pytest.raises(SystemExit):
            evaluate("out", "restored", "gt", *words)
        assert "Expected --rank" in capsys.readouterr().err


def test_python_keeps_nothing_of_a_model_in_memory(stage2: str) -> None:
    restorer = Restorer.from_pretrained(stage2, "cpu")
    options: dict[str, Any] = {"baselines": "none", "t": 0.0, "metrics": "psnr"}
    kept = evaluate_model(restorer, "lq", "gt", output="out", **options)
    assert len(list(Path("out/unfinished").glob("*.safetensors"))) == COUNT
    kept.save("out")
    assert not Path("out/unfinished").exists()
    restorer.source = None
    plain = evaluate_model(restorer, "lq", "gt", output="none", **options)
    assert plain.measurements.summaries()[0].values == kept.measurements.summaries()[0].values
    assert not Path("none").exists()


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_process_is_made_up_for(stage2: str, tmp_path: Path) -> None:
    words = ["evaluate", "lq", "gt", "--checkpoint", stage2, "--baselines", "none", "--device", "cpu", "--output"]
    main([*words, "whole"])
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        several_processes(evaluation_runs.evaluate, tmp_path, str(tmp_path), 1, [*words, "parts"])
    there = {path.name for path in Path("parts/unfinished").glob("0*.safetensors")}
    assert there
    assert there <= {"000000.safetensors", "000001.safetensors"}
    several_processes(evaluation_runs.evaluate, tmp_path, str(tmp_path), None, [*words, "parts"])
    assert timeless("parts") == timeless("whole")
    assert names("parts") == REPORT
