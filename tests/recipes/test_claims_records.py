"""The plan of `make claims`, its records, and doing what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.claims import conduct as claims_conduct
from recipes.claims.bench import Bench
from recipes.claims.conduct import conduct
from recipes.claims.plan import (
    Experiment,
    Variation,
    foundation,
    measured,
    plan,
    read_config,
    read_weights,
    stage_1,
    stage_2,
)
from recipes.claims.records import Record, Records, digest, listing, transposed

NANO = Path(__file__).parents[2] / "configs" / "nano"
WEIGHTS = {"lambda_fidelity": 0.2, "lambda_realness": 1.0, "gamma_time": 5.5}
VARIATIONS = [*measured(full=True), *stage_1(WEIGHTS), *stage_2()]


def made(title: str, seconds: float = 30.0) -> Record:
    return Record(title, ["a", "b"], {"t=0.00": {"psnr_y": [20.0, 22.0]}}, {"training": seconds}, {"device": "cpu"})


def titles(experiments: list[Experiment]) -> list[str]:
    return [experiment.title for experiment in experiments]


def test_the_plan_holds_what_the_paper_varies() -> None:
    overrides = {variation.key: dict(variation.overrides) for variation in VARIATIONS}
    assert overrides["stage1/base"] == overrides["stage2/base"] == {}
    assert overrides["stage1/no_distillation"] == {"lambda_fidelity": 0.0, "lambda_realness": 0.0}
    assert overrides["stage1/no_prior"] == {"gamma_time": 0.0}
    prior = overrides["stage1/no_align"]
    assert prior["lambda_fidelity"] * prior["gamma_time"] == pytest.approx(0.2 * 5.5)
    assert prior["lambda_realness"] < 1e-5
    assert overrides["stage1/paper_weights"]["reconstruction.lambda_lpips"] == 2.0
    assert overrides["stage1/score"] == {"gradient": "score"}
    assert overrides["stage2/reencode"] == {"z0_source": "reencode"}
    assert len({Experiment(variation).stem for variation in VARIATIONS}) == len(VARIATIONS)


def test_a_value_that_is_configured_is_not_tried_again() -> None:
    names = {variation.name for variation in stage_1({**WEIGHTS, "gamma_time": 20.0})}
    assert "gamma_20" not in names
    assert "gamma_1" in names


def test_the_shipped_configuration_names_its_weights() -> None:
    assert read_weights(NANO).keys() == WEIGHTS.keys()
    config = read_config(NANO, "stage2")
    assert config["data"]["class_path"] == "RealESRGANDataModule"
    network = config["model"]["init_args"]["fidelity"]["init_args"]["network"]["init_args"]
    assert network["codec"]["class_path"] == "NanoCodec"  # a file within a file


def test_seed_follows_seed() -> None:
    experiments = plan(VARIATIONS, [0, 3])
    count = len(stage_1(WEIGHTS)) + len(stage_2())
    assert titles(experiments)[:3] == ["chain/teachers", "chain/full_length", "stage1/base, seed 0"]
    assert [e.seed for e in experiments[2:]] == [0] * count + [3] * count
    assert experiments.index(Experiment(VARIATIONS[2], 3)) == 2 + count


def test_a_part_of_the_plan_brings_what_it_starts_from() -> None:
    experiments = plan(VARIATIONS, [1], ["stage2/reencode"])
    assert titles(experiments) == ["stage1/base, seed 1", "stage2/reencode, seed 1"]
    assert foundation(experiments[1], experiments) == experiments[0]
    assert foundation(experiments[0], experiments) is None
    assert {e.variation.group for e in plan(VARIATIONS, [1], ["chain"])} == {"chain"}


@pytest.mark.parametrize(
    ("seeds", "only", "message"),
    [
        ([], [], "different seeds"),
        ([1, 1], [], "different seeds"),
        ([-1], [], "at least 0"),
        ([0], ["stage3"], "got stage3"),
    ],
)
def test_a_wrong_plan_is_refused(seeds: list[int], only: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(VARIATIONS, seeds, only)


def test_configurations_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stage1\.yaml"):
        read_weights(tmp_path)
    (tmp_path / "stage1.yaml").write_text("model: {init_args: {lambda_fidelity: 1.0, gamma_time: much}}")
    with pytest.raises(ValueError, match="missing lambda_realness, gamma_time"):
        read_weights(tmp_path)


def test_a_record_is_found_by_its_settings_alone(tmp_path: Path) -> None:
    records, experiment = Records(tmp_path / "records"), Experiment(VARIATIONS[2], 1)
    settings = {"steps": 120, "overrides": {"gamma_time": 5.5}, "controls": (0.0, 1.0)}
    assert records.find(experiment, settings) is None
    records.write(experiment, settings, made("stage1/base"))
    found = records.find(experiment, {key: settings[key] for key in reversed(settings)})
    assert found == made("stage1/base")
    assert found.means("t=0.00") == {"psnr_y": 21.0}
    other = {**settings, "steps": 240}
    assert records.find(experiment, other) is None
    assert records.find(Experiment(VARIATIONS[2], 2), settings) is None
    assert records.others(experiment, other) == ["steps"]
    assert records.others(experiment, settings) == []
    assert [path.suffix for path in records.folder.iterdir()] == [".json"]


def test_the_nearest_of_other_records_is_told(tmp_path: Path) -> None:
    records, experiment = Records(tmp_path), Experiment(VARIATIONS[2])
    records.write(experiment, {"steps": 1, "chain": "old", "data": "a"}, made("x"))
    records.write(experiment, {"steps": 2, "chain": "old", "data": "a"}, made("x"))
    assert records.others(experiment, {"steps": 2, "chain": "new", "data": "a"}) == ["chain"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    records, experiment = Records(tmp_path), Experiment(VARIATIONS[2])
    records.path(experiment, {}).write_text('{"settings": {}')
    with pytest.raises(ValueError, match="is not a record of python -m recipes claims"):
        records.find(experiment, {})
    assert records.others(experiment, {"steps": 2}) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    one, other, experiment = Records(tmp_path), Records(tmp_path), Experiment(VARIATIONS[2])
    with one.held(experiment, {}) as mine, other.held(experiment, {}) as theirs:
        assert (mine, theirs) == (True, False)
        with other.held(experiment, {"seed": 1}) as free:
            assert free
    with other.held(experiment, {}) as again:
        assert again


def test_rows_become_columns() -> None:
    rows = [
        (image, method, {"psnr_y": value})
        for image, method, value in [("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 3.0)]
    ]
    assert transposed([*rows, ("b", "y", {"psnr_y": 4.0})]) == (
        ["a", "b"],
        {"x": {"psnr_y": [1.0, 3.0]}, "y": {"psnr_y": [2.0, 4.0]}},
    )
    with pytest.raises(ValueError, match="some lack images"):
        transposed(rows)
    with pytest.raises(ValueError, match="in one order"):
        transposed([*rows, ("a", "y", {"psnr_y": 4.0})])


def test_a_listing_moves_with_its_folder(tmp_path: Path) -> None:
    for folder, content in (("one", b"xx"), ("two", b"yy"), ("three", b"z")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
    one, two, three = (listing([tmp_path / f / "a.png"], tmp_path / f) for f in ("one", "two", "three"))
    assert one == two != three
    assert listing([], None) == "sample photographs"
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


class Toy(Bench):
    """A bench that trains nothing.

    Args:
        steps: Part of the settings.
    """

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps
        self.done: list[str] = []
        self.weights: set[str] = set()

    def settings(self, experiment: Experiment, base: Experiment | None = None) -> dict[str, Any]:
        return {"title": experiment.title, "steps": self.steps, "start": base and base.title}

    def has_weights(self, experiment: Experiment) -> bool:
        return experiment.title in self.weights

    def run(self, experiment: Experiment, base: Experiment | None = None) -> Record:
        assert base is None or base.title in self.weights
        self.done.append(experiment.title)
        self.weights.add(experiment.title)
        return made(experiment.variation.key)


SMALL = plan([*measured(full=False), stage_1(WEIGHTS)[0], stage_1(WEIGHTS)[1], stage_2()[0]], [0, 1])


def test_what_is_finished_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, records = Toy(), Records(tmp_path)
    found = conduct(SMALL[:4], bench, records)
    assert [experiment for experiment, _ in found] == SMALL[:4]
    assert bench.done == titles(SMALL[:4])
    capsys.readouterr()
    conduct(SMALL, bench, records)
    assert bench.done == titles(SMALL)
    printed = capsys.readouterr().out
    assert "4 of 7 experiments are finished" in printed
    assert "[5/7] stage1/base, seed 1; about 2 minutes left" in printed
    conduct(SMALL, bench, records)
    assert bench.done == titles(SMALL)


def test_other_settings_are_done_anew_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = Records(tmp_path)
    conduct(SMALL, Toy(), records)
    bench = Toy(steps=2)
    conduct(SMALL[:2], bench, records)
    assert bench.done == titles(SMALL[:2])
    assert "stage1/base, seed 0: its record was made with other settings (steps)" in capsys.readouterr().out


def test_weights_that_are_gone_come_again_only_if_they_are_needed(tmp_path: Path) -> None:
    records = Records(tmp_path)
    conduct(SMALL[:2], Toy(), records)
    bench = Toy()
    conduct(SMALL[:3], bench, records)
    assert bench.done == titles(SMALL[2:3])
    conduct(SMALL[:4], bench, records)
    assert bench.done == titles([SMALL[2], SMALL[1], SMALL[3]])


def test_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    bench, records, base = Toy(), Records(tmp_path), SMALL[1]
    settings: Mapping[str, Any] = bench.settings(base)
    other = Records(tmp_path).held(base, settings)

    def finish(seconds: float) -> None:
        """The other process comes to its end."""
        assert bench.done == ["chain/teachers", "stage1/no_distillation, seed 0"]  # stage 2 waits for stage 1
        bench.weights.add(base.title)
        records.write(base, settings, made("stage1/base"))
        other.__exit__(None, None, None)

    monkeypatch.setattr(claims_conduct.time, "sleep", finish)
    assert other.__enter__()
    found = conduct(SMALL[:4], bench, records)
    assert titles([experiment for experiment, _ in found]) == titles(SMALL[:4])
    assert base.title not in bench.done
    assert "Waiting for another process, which does stage1/base, seed 0" in capsys.readouterr().out


def test_variations_with_other_settings_are_others() -> None:
    assert Variation("stage1", "a", "a", {"x": 1}) != Variation("stage1", "a", "a", {"x": 2})
    assert len({Variation("stage1", "a", "a", {"x": 1}), Variation("stage1", "a", "a", {"x": 1})}) == 1
