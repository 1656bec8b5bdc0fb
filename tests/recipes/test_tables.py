"""The tables at full size: their plan, and all but Table 6's sweep run with toy networks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from ctsr_lightning import cli
from ctsr_lightning.images import write_image
from helpers.config_runs import CONFIGS, QUIET, write_base
from helpers.drawn_photos import draw_photo
from helpers.published_files import small_resshift, write_osediff, write_resshift
from recipes.__main__ import main
from recipes.tables import run
from recipes.tables.run import read_plan

PLAN = read_plan()
SETS = ("realsr", "realsr_nikon", "drealsr", "div2k_val")
SHORT = """
--data.crop 64 --data.val_crop 64 --data.val_repeats 1 --data.samples_per_epoch 8 --data.num_workers 0
--data.batch_size 1 --data.train null --data.val null --trainer.max_steps 2 --trainer.precision 32-true
--trainer.limit_val_batches 0
"""
FIT = [*QUIET, *shlex.split(SHORT), *small_resshift("model.fidelity.")]


def test_every_row_has_a_training_a_data_set_and_a_figure_per_column() -> None:
    assert [table.number for table in PLAN.tables] == [1, 2, 4, 6, 7, 9]
    for table in PLAN.tables:
        for row in table.rows:
            assert row.training in PLAN.trainings
            assert row.data in SETS
            assert len(row.paper) == len(table.columns) <= len(PLAN.metrics)
    used = {name for table in PLAN.tables for row in table.rows for name in PLAN.chain(row.training)}
    assert used == PLAN.trainings.keys()


def test_what_a_training_changes_is_in_its_configuration() -> None:
    for name, training in PLAN.trainings.items():
        values = yaml.safe_load((CONFIGS / "ctsr" / f"{training['config']}.yaml").read_text())["model"]["init_args"]
        for key, value in training.get("set", {}).items():
            part, setting = key.split(".")
            assert part == "model"
            assert values[setting] != value, f"{name} changes nothing"
            if str(value).endswith(".yaml"):
                assert (CONFIGS / value).is_file()
    ours = {"lambda_realness": 1.0, "lambda_fidelity": 2.0, "gamma_time": 5.5}
    assert ours.items() <= yaml.safe_load((CONFIGS / "ctsr/stage1.yaml").read_text())["model"]["init_args"].items()


def test_a_dry_run_prints_commands_that_a_shell_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tables", "6", "9", "--output", str(tmp_path / "a b"), "--dry_run", "--fit", "--trainer.devices 8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if " ctsr " in line]
    commands = [shlex.split(line.partition(" ctsr ")[2]) for line in lines]
    fits = [words for words in commands if words[0] == "fit"]
    assert len(fits) == 13 + 1  # stage 1 as configured serves both
    assert all(words[-2:] == ["--trainer.devices", "8"] for words in fits)
    assert fits[-1][fits[-1].index("--model.z0_source") + 1] == "reencode"
    assert not list(tmp_path.iterdir())


def test_other_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tables", "5"])
    assert "Expected tables out of 1, 2, 4, 6, 7, 9, found 5" in capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Generated weights in the published layouts, data sets of two pairs, and `ctsr` run in this process."""
    place = tmp_path_factory.mktemp("tables")
    base = write_base(place / "models" / "base")
    write_osediff(base, place / "models" / "osediff.pkl")
    for name in ("resshift", "sinsr"):
        write_resshift(place / "models" / f"{name}.pth", place / "models" / "vq.pth")
    shutil.copytree(CONFIGS, place / "configs")
    for number in range(2):
        photo = draw_photo(64, 64, number)
        write_image(place / "pairs" / "gt" / f"{number}.png", photo)
        write_image(place / "pairs" / "lq" / f"{number}.png", photo[:, ::4, ::4])
    pairs = [{"lq": str(place / "pairs" / "lq"), "gt": str(place / "pairs" / "gt")}]
    for name in SETS:
        data = {"class_path": "RealESRGANDataModule", "init_args": {"test_pairs": pairs, "num_workers": 0}}
        (place / "configs" / "data" / f"{name}.yaml").write_text(yaml.safe_dump(data))
    files = {
        "BASE": "base",
        "REALNESS": "osediff.pkl",
        "RESSHIFT": "resshift.pth",
        "SINSR": "sinsr.pth",
        "VQ": "vq.pth",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, file in files.items():
            patch.setenv(f"CTSR_{name}", str(place / "models" / file))
        patch.setenv("CTSR_BASE_KIND", "any")
        patch.setenv("TORCH_HOME", str(place / "none"))
        patch.setattr(run, "_run", _in_this_process)
        yield place


def _in_this_process(words: Sequence[str], made: Path, environment: Mapping[str, str]) -> None:
    """The command without starting Python anew, which takes longer than the training."""
    stage_1 = words[0] == "fit" and "stage1.yaml" in words[2]
    stand_in = (
        ["--model.reconstruction.perceptual", "ctsr_lightning.metrics.texture.TextureDistance"] if stage_1 else []
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTSR_RUNS", environment["CTSR_RUNS"])
        cli.main([*words, *stand_in])
    assert made.is_file()
    assert os.environ.get("CTSR_RUNS") != environment["CTSR_RUNS"]


@pytest.mark.slow
def test_tables_are_made_and_what_is_finished_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--output", str(place / "out"), "--configs", str(place / "configs"), "--fit", shlex.join(FIT)]
    words += ["--evaluate", "--skip_unavailable --device cpu"]
    main(["tables", "1", "2", "4", "7", "9", *words])
    for table in (table for table in PLAN.tables if table.number != 6):
        lines = (place / "out" / f"table_{table.number}.md").read_text(encoding="utf-8").splitlines()
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
        assert [row[0] for row in rows] == [row.name for row in table.rows]
        for found, row in zip(rows, table.rows, strict=True):
            assert [float(cell) for cell in found[2::2]] == list(row.paper)
            assert 5.0 < float(found[1]) < 60.0  # PSNR, the first column of all
    record = json.loads((place / "out/measurements/stage1_realsr_nikon/summary.json").read_text())
    by_label = {result["setting"]: result["psnr_y"] for result in record["results"]}
    one = (place / "out" / "table_1.md").read_text(encoding="utf-8")
    assert f"| α = 0.4 | {by_label['blend α=0.40']:.2f} | 25.25 |" in one
    capsys.readouterr()
    shutil.rmtree(place / "out/measurements/sinsr_realsr")
    main(["tables", "4", *words])
    printed = capsys.readouterr().out
    assert "5 of 6 trainings and measurements are finished" in printed
    assert printed.count(" ctsr evaluate ") == 1
    assert " ctsr fit " not in printed
