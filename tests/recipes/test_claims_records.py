"""Experiments of `make claims`, their records, and runs that do what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recipes.claims import run
from recipes.claims.experiments import (
    STAGE_1,
    Experiment,
    list_experiments,
    plan_experiments,
    read_config,
    read_loss_settings,
    start_experiment,
)
from recipes.claims.records import COLUMNS, Record, Records, differing_settings
from recipes.claims.run import run_pending
from recipes.claims.train import ExperimentTrainer

NANO = Path(__file__).parents[2] / "configs" / "nano"
SETTINGS: dict[str, Any] = {
    "lambda_fidelity": 0.2, "lambda_realness": 1.0, "gamma_time": 1.5, "gradient": "score",
    "reconstruction": {"lambda_l2": 0.5}, "fidelity": {"init_args": {"network": {"init_args": {"temperature": 0.5}}}},
}  # fmt: skip
EXPERIMENTS = list_experiments(SETTINGS, full=True)


def made(value: float = 20.0, seconds: float = 30.0) -> Record:
    table = pd.DataFrame([("a", "t=0.00", "psnr_y", value), ("b", "t=0.00", "psnr_y", 22.0)], columns=COLUMNS)
    return Record(table, {"training": seconds}, {"device": "cpu"})


def titles(experiments: list[Experiment]) -> list[str]:
    return [experiment.title for experiment in experiments]


def test_the_list_holds_what_the_paper_varies() -> None:
    overrides = {experiment.key: dict(experiment.overrides) for experiment in EXPERIMENTS}
    assert overrides["stage1/base"] == overrides["stage2/base"] == {}
    assert overrides["stage1/no_distillation"] == {"lambda_fidelity": 0.0, "lambda_realness": 0.0}
    assert overrides["stage1/no_prior"] == {"gamma_time": 0.0}
    assert overrides["stage1/l2_16"] == {**overrides["stage1/no_distillation"], "reconstruction.lambda_l2": 8.0}
    assert overrides["stage1/no_distillation_longer"] == overrides["stage1/no_distillation"]
    assert {e.length for e in EXPERIMENTS if e.key != "stage1/no_distillation_longer"} == {1.0}
    for key in ("chain/temperature_1", "stage2/temperature_1"):
        assert overrides[key] == {"fidelity.init_args.network.init_args.temperature": 1.0}
    assert {e.key: e.teachers for e in EXPERIMENTS}["stage2/temperature_1"] == "chain/temperature_1"
    assert overrides["stage1/paper"] == {"gradient": "paper"}
    assert overrides["stage2/uniform"] == {"t_distribution": "uniform"}
    assert len({experiment.stem for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    assert [e.key for e in EXPERIMENTS if e not in list_experiments(SETTINGS, full=False)] == ["chain/full_length"]


def test_a_value_that_is_configured_is_not_tried_again() -> None:
    assert {"stage1/gamma_5.5", "stage1/paper", "chain/temperature_0"} <= {e.key for e in EXPERIMENTS}
    keys = {e.key for e in list_experiments({**SETTINGS, "gamma_time": 5.5, "gradient": "paper"}, full=False)}
    assert "stage1/score" in keys
    assert not {"stage1/gamma_5.5", "stage1/paper", "chain/temperature_0.5"} & keys


def test_the_shipped_configuration_names_its_weights() -> None:
    assert read_loss_settings(NANO).keys() >= SETTINGS.keys()
    config = read_config(NANO, "stage2")
    assert config["data"]["class_path"] == "RealESRGANDataModule"
    network = config["model"]["init_args"]["fidelity"]["init_args"]["network"]["init_args"]
    assert network["codec"]["class_path"] == "NanoCodec"  # a file within a file


def test_seed_follows_seed() -> None:
    experiments = plan_experiments(EXPERIMENTS, [0, 3])
    count = len(EXPERIMENTS) - 4
    teachers = ["chain/teachers", "chain/temperature_0", "chain/temperature_1"]
    assert titles(experiments)[:5] == [*teachers, "chain/full_length", "stage1/base, seed 0"]
    assert [e.seed for e in experiments[4:]] == [0] * count + [3] * count
    assert experiments.index(replace(EXPERIMENTS[4], seed=3)) == 4 + count


def test_a_part_of_the_plan_brings_what_it_starts_from() -> None:
    experiments = plan_experiments(EXPERIMENTS, [1], ["stage2/uniform"])
    assert titles(experiments) == ["stage1/base, seed 1", "stage2/uniform, seed 1"]
    assert start_experiment(experiments[1], experiments) == experiments[0]
    assert start_experiment(experiments[0], experiments) is None
    assert {e.group for e in plan_experiments(EXPERIMENTS, [1], ["chain"])} == {"chain"}


@pytest.mark.parametrize(
    ("seeds", "only", "message"),
    [
        ([], [], "different seeds"),
        ([1, 1], [], "different seeds"),
        ([-1], [], "at least 0"),
        ([0], ["stage3"], "found stage3"),
    ],
)
def test_a_wrong_plan_is_refused(seeds: list[int], only: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_experiments(EXPERIMENTS, seeds, only)


def test_configurations_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stage1\.yaml"):
        read_loss_settings(tmp_path)
    (tmp_path / "stage1.yaml").write_text("model: {init_args: {lambda_fidelity: 1.0, gamma_time: much}}")
    with pytest.raises(ValueError, match="missing lambda_realness, gamma_time"):
        read_loss_settings(tmp_path)


def test_a_record_is_found_by_its_settings_alone(tmp_path: Path) -> None:
    records, experiment = Records(tmp_path / "records", {}), Experiment(STAGE_1, "", seed=1)
    settings = {"overrides": {"gamma_time": 5.5}, "controls": (0.0, 1.0)}
    assert records.read(experiment, settings) is None
    records.write(experiment, settings, made(20.1234567))
    found = records.read(experiment, {key: settings[key] for key in reversed(settings)})
    pd.testing.assert_frame_equal(found.measurements, made(20.123457).measurements)
    assert (found.seconds, found.made) == ({"training": 30.0}, {"device": "cpu"})
    assert records.read(experiment, {**settings, "overrides": {}}) is None
    assert records.read(replace(experiment, seed=2), settings) is None
    assert {path.name for path in records.folder.iterdir()} == {"settings.json", "stage1-base-seed1.json"}


def test_records_of_other_settings_are_refused(tmp_path: Path) -> None:
    Records(tmp_path, {"steps": 1, "photos": {"a.png": 3}, "controls": (0.0, 1.0)})
    Records(tmp_path, {"controls": (0.0, 1.0), "photos": {"a.png": 3}, "steps": 1})
    with pytest.raises(ValueError, match=r"found others: photos, steps\. Name another --work"):
        Records(tmp_path, {"steps": 2, "photos": {"a.png": 4}, "controls": (0.0, 1.0)})
    assert differing_settings({"a": 1, "b": [2], "c": 0}, {"b": (2,), "c": 1, "d": None, "e": 5}) == ["a", "c", "e"]


def test_an_interrupted_writing_leaves_the_record_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, experiment = Records(tmp_path, {}), Experiment(STAGE_1, "")
    records.write(experiment, {}, made())
    monkeypatch.setattr(Path, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        records.write(experiment, {}, made(99.0))
    assert records.read(experiment, {}).measurements["value"][0] == 20.0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ['{"settings": {}', "{}", '{"settings": {}, "measurements": [[1]]}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    records, experiment = Records(tmp_path, {}), Experiment(STAGE_1, "")
    records.path(experiment).write_text(text)
    with pytest.raises(ValueError, match="is not a record of python -m recipes claims"):
        records.read(experiment, {})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    one, other, experiment = Records(tmp_path, {}), Records(tmp_path, {}), Experiment(STAGE_1, "")
    with one.lock(experiment) as mine, other.lock(experiment) as theirs:
        assert (mine, theirs) == (True, False)
        with other.lock(replace(experiment, seed=1)) as free:
            assert free
    with other.lock(experiment) as again:
        assert again


class Toy(ExperimentTrainer):
    """A trainer that trains nothing."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.weights: set[str] = set()

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        return {"overrides": dict(experiment.overrides)}

    def has_weights(self, experiment: Experiment) -> bool:
        return experiment.title in self.weights

    def run(self, experiment: Experiment, start: Experiment | None = None) -> Record:
        assert start is None or start.title in self.weights
        self.done.append(experiment.title)
        self.weights.add(experiment.title)
        return made()


FEW = ("chain/teachers", "stage1/base", "stage1/no_distillation", "stage2/base")
SMALL = plan_experiments([e for e in EXPERIMENTS if e.key in FEW], [0, 1])


def test_what_is_finished_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, records = Toy(), Records(tmp_path, {})
    found = run_pending(SMALL[:4], trainer, records)
    assert list(found) == SMALL[:4]
    assert trainer.done == titles(SMALL[:4])
    capsys.readouterr()
    run_pending(SMALL, trainer, records)
    assert trainer.done == titles(SMALL)
    printed = capsys.readouterr().out
    assert "4 of 7 experiments are finished" in printed
    assert "[5/7] stage1/base, seed 1; about 2 minutes left" in printed
    run_pending(SMALL, trainer, records)
    assert trainer.done == titles(SMALL)


def test_other_overrides_are_done_anew(tmp_path: Path) -> None:
    records = Records(tmp_path, {})
    run_pending(SMALL[:3], Toy(), records)
    trainer = Toy()
    changed = replace(SMALL[2], overrides={"lambda_fidelity": 0.5})
    run_pending([*SMALL[:2], changed], trainer, records)
    assert trainer.done == titles([changed])


def test_weights_that_are_gone_come_again_only_if_they_are_needed(tmp_path: Path) -> None:
    records = Records(tmp_path, {})
    run_pending(SMALL[:2], Toy(), records)
    trainer = Toy()
    run_pending(SMALL[:3], trainer, records)
    assert trainer.done == titles(SMALL[2:3])
    run_pending(SMALL[:4], trainer, records)
    assert trainer.done == titles([SMALL[2], SMALL[1], SMALL[3]])


def test_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    trainer, records, base = Toy(), Records(tmp_path, {}), SMALL[1]
    settings: Mapping[str, Any] = trainer.settings(base)
    other = Records(tmp_path, {}).lock(base)

    def finish(seconds: float) -> None:
        """The other process comes to its end."""
        assert trainer.done == ["chain/teachers", "stage1/no_distillation, seed 0"]  # stage 2 waits for stage 1
        trainer.weights.add(base.title)
        records.write(base, settings, made())
        other.__exit__(None, None, None)

    monkeypatch.setattr(run.time, "sleep", finish)
    assert other.__enter__()
    found = run_pending(SMALL[:4], trainer, records)
    assert titles(list(found)) == titles(SMALL[:4])
    assert base.title not in trainer.done
    assert "Waiting for another process, which does stage1/base, seed 0" in capsys.readouterr().out


def test_experiments_with_other_settings_are_others() -> None:
    assert Experiment("stage1/a", "a", {"x": 1}) != Experiment("stage1/a", "a", {"x": 2})
    assert len({Experiment("stage1/a", "a", {"x": 1}), Experiment("stage1/a", "a", {"x": 1})}) == 1
