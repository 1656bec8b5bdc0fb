"""Verdicts, tables and pictures of `make claims` from numbers that are made up, for and against the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctsr_lightning.evaluation.labels import control_label
from ctsr_lightning.frontier import Axis, Point
from ctsr_lightning.images import image_size
from recipes.claims.experiments import (
    ALPHAS,
    CONTROLS,
    FULL,
    MORE_L2,
    NO_DISTILLATION,
    STAGE_1,
    STAGE_2,
    TEACHERS,
    TRAINED_LONGER,
    list_experiments,
    plan_experiments,
)
from recipes.claims.findings import (
    Estimate,
    Findings,
    blend_label,
    epsilon_distance,
    lead_at_equal_psnr,
    paired_difference,
)
from recipes.claims.page import claims_page, introduce
from recipes.claims.plots import draw_changes, swept_weights, write_pictures
from recipes.claims.records import COLUMNS, Record
from recipes.claims.verdicts import Claim, judge_claims, verdict

X, Y = Axis("psnr_y", higher_is_better=True), Axis("lpips_squeeze", higher_is_better=False)
SETTINGS: dict[str, Any] = {
    "lambda_fidelity": 0.2, "lambda_realness": 1.0, "gamma_time": 1.5, "gradient": "score",
    "reconstruction": {"lambda_l2": 0.5}, "fidelity": {"init_args": {"network": {"init_args": {"temperature": 0.5}}}},
}  # fmt: skip
EXPERIMENTS = list_experiments(SETTINGS, full=True)
LETTERS = "aaabbbcccdddd"
INTRODUCTION = ["How it was made."]
Points = Mapping[str, tuple[float, float]]


def record(key: str, seed: int, points: Points, shift: float = 0.0) -> pd.DataFrame:
    """Four images around given means; `shift` moves PSNR as a seed would."""
    rows = []
    for method, (psnr, distance) in points.items():
        values = {
            "psnr_y": [psnr + shift + offset for offset in (-2.0, 1.0, 1.0, 0.0)],
            "lpips_squeeze": [distance - shift / 100 + offset / 100 for offset in (1.0, -1.0, 0.5, -0.5)],
            "grid_energy": [1.0, 1.02, 1.0, 1.02],
        }
        for metric, column in values.items():
            rows += [(key, seed, *row) for row in zip("abcd", [method] * 4, [metric] * 4, column, strict=True)]
    return pd.DataFrame(rows, columns=["experiment", "seed", *COLUMNS])


def teachers(gain: float) -> dict[str, tuple[float, float]]:
    """T_r at 22 dB and 0.2, T_f at 24 dB and 0.4; with a gain, blends are better than both, without, on the chord."""
    blends = {
        blend_label(a): (22.0 + 2.0 * a + 4.0 * gain * a * (1 - a), 0.2 + 0.2 * a - 0.3 * gain * a * (1 - a))
        for a in ALPHAS
    }
    return {"bicubic": (21.5, 0.6), "T_f": (24.0, 0.4), "T_r": (22.0, 0.2), **blends}


def student(start: tuple[float, float], end: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """A straight path over t, and the straight blend with T_f."""

    def between(share: float, to: tuple[float, float]) -> tuple[float, float]:
        return start[0] + share * (to[0] - start[0]), start[1] + share * (to[1] - start[1])

    path = {control_label(t): between(t, end) for t in CONTROLS}
    return {**path, **{blend_label(a): between(a, (24.0, 0.4)) for a in CONTROLS[1:-1]}}


def seeds(key: str, points: Points, wobble: float = 0.01) -> pd.DataFrame:
    return pd.concat([record(key, seed, points, wobble * (seed - 1)) for seed in range(3)])


@cache
def tables(*, good: bool) -> dict[str, pd.DataFrame]:
    """Everything as the paper says, or nothing of it; by experiment."""
    start, end = ((23.9, 0.15), (25.0, 0.3)) if good else ((21.8, 0.39), (21.6, 0.34))
    sign = 1.0 if good else -1.0
    moves = {STAGE_1: (0.0, 0.0), NO_DISTILLATION: (0.3, 0.1), TRAINED_LONGER: (-0.3, 0.1)}
    moves |= {key: (0.3 + step, 0.1 + 0.1 * step) for step, key in enumerate(MORE_L2, start=1)}
    found = {e.key: record(e.key, 0, teachers(sign)) for e in EXPERIMENTS if e.key.startswith("chain/te")}
    found[FULL] = record(FULL, 0, student(start, end))
    for e in EXPERIMENTS[len(found) :]:
        psnr, distance = moves.get(e.key, (-0.2, 0.03))
        moved = {"t=0.00": (start[0] + sign * psnr, start[1] + sign * distance)}
        found[e.key] = seeds(e.key, student(start, end) if e.group == "stage2" else moved)
    return found


def findings(*, good: bool, **replaced: pd.DataFrame) -> Findings:
    return Findings(pd.concat({**tables(good=good), **replaced}.values()), EXPERIMENTS)


def verdicts(found: Findings) -> list[tuple[str, str]]:
    return [(claim.letter, claim.verdict) for claim in judge_claims(found)]


def by_text(found: Findings, word: str) -> Claim:
    return next(claim for claim in judge_claims(found) if word in claim.text)


def test_a_world_like_the_papers() -> None:
    assert verdicts(findings(good=True)) == [(letter, "reproduced") for letter in LETTERS]


def test_a_world_unlike_it() -> None:
    assert verdicts(findings(good=False)) == [(letter, "not reproduced") for letter in LETTERS]
    assert all(claim.settled_by for claim in judge_claims(findings(good=False)))
    assert not any(claim.settled_by for claim in judge_claims(findings(good=True)))


def test_one_metric_is_enough_for_the_blend() -> None:
    table = record(TEACHERS, 0, {**teachers(-1.0), blend_label(0.8): (24.5, 0.4)})
    claim = by_text(findings(good=False, **{TEACHERS: table}), "Blending")
    assert claim.verdict == "reproduced"
    assert "psnr_y at α = 0.8: +0.5000 ± 0.0000" in claim.numbers


def test_the_gain_of_the_best_blend_has_the_standard_error_over_images() -> None:
    table = tables(good=True)[TEACHERS].copy()
    noise = np.array([0.3, -0.1, 0.2, -0.4])
    table.loc[(table.method == blend_label(0.8)) & (table.metric == "psnr_y"), "value"] += 1.0 + noise
    claim = by_text(findings(good=True, **{TEACHERS: table}), "Blending")
    mean = 22.0 + 1.6 + 4.0 * 0.16 + 1.0 - 24.0
    assert f"psnr_y at α = 0.8: {mean:+.4f} ± {stats.sem(noise):.4f} over the better teacher" in claim.numbers


def test_a_lead_within_the_spread_is_mixed() -> None:
    runs = [record(STAGE_1, seed, {"t=0.00": (22.0 + wobble, 0.19)}) for seed, wobble in enumerate((-3.0, 0.0, 3.0))]
    assert by_text(findings(good=True, **{STAGE_1: pd.concat(runs)}), "outside").verdict == "mixed"


def test_a_sweep_that_turns_back_with_one_seed_is_mixed() -> None:
    path = student((23.9, 0.15), (25.0, 0.3))
    turned = record(STAGE_2, 1, {**path, "t=0.60": path["t=0.40"], "t=0.40": path["t=0.60"]})
    others = tables(good=True)[STAGE_2].query("seed != 1")
    claim = by_text(findings(good=True, **{STAGE_2: pd.concat([others, turned])}), "monotone")
    assert claim.verdict == "mixed"
    assert "Monotone in psnr_y with 2 of 3 seeds, in lpips_squeeze with 2" in claim.numbers


def test_one_seed_is_judged_by_its_signs() -> None:
    one = Findings(pd.concat(tables(good=True).values()).query("seed == 0"), EXPERIMENTS)
    assert {verdict for _, verdict in verdicts(one)} == {"reproduced"}
    assert "**+" not in claims_page(one, INTRODUCTION, {}, "")
    assert "with one seed nothing is known about the spread" in made([0])


def test_weights_without_another_value_are_not_judged() -> None:
    kept = {key: table for key, table in tables(good=True).items() if "gamma" not in key and key != "stage1/no_prior"}
    found = Findings(pd.concat(kept.values()), EXPERIMENTS)
    assert verdicts(found) == [(letter, "reproduced") for letter in LETTERS[:-1]]
    assert swept_weights(found, SETTINGS).keys() == {"λ_fl", "λ_rn"}


def test_a_chain_without_its_own_stages_is_judged_as_well() -> None:
    found = Findings(pd.concat(table for key, table in tables(good=True).items() if key != FULL), EXPERIMENTS)
    assert verdicts(found) == verdicts(findings(good=True))
    assert "full length" not in claims_page(found, INTRODUCTION, {}, "")


def test_verdict() -> None:
    assert verdict([1, 1]) == "reproduced"
    assert verdict([1, -1]) == verdict([1, 0]) == verdict([0, 0]) == "mixed"
    assert verdict([-1, 0]) == verdict([-1]) == "not reproduced"


def test_an_estimate_is_the_sample_statistics() -> None:
    found = Estimate.of([1.0, 2.0, 6.0])
    assert found == (3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert found.se == pytest.approx(stats.sem([1.0, 2.0, 6.0])) == pytest.approx(math.sqrt(7.0 / 3.0))
    assert found.sign == 0
    assert Estimate.of([1.0, 1.1, 1.2]).sign == 1
    assert Estimate.of([-1.0, -1.1, -1.2]).sign == -1
    assert Estimate.of([0.0, 0.0]).sign == 0
    assert math.isnan(Estimate.of([4.0]).sd)
    assert Estimate.of([4.0]).sign == 1


def test_differences_are_paired_by_seed() -> None:
    base = pd.Series({2: 29.0, 1: 19.0, 0: 9.0, 3: 0.0})
    assert paired_difference(pd.Series({0: 10.0, 1: 20.0, 2: 30.0}), base) == (1.0, 0.0, 3)
    values, other = {0: 1.0, 1: 2.5, 2: 3.0}, {0: 0.5, 1: 0.0, 2: 3.5}
    found = paired_difference(pd.Series(values), pd.Series(other))
    t, _ = stats.ttest_rel(list(values.values()), list(other.values()))
    assert found.mean / found.se == pytest.approx(t)
    with pytest.raises(ValueError, match="seed in common"):
        paired_difference(pd.Series({0: 1.0}), pd.Series({1: 1.0}))


def test_means_are_over_images_and_changes_over_seeds() -> None:
    found = findings(good=True)
    assert found.metric(STAGE_1, "psnr_y").to_dict() == pytest.approx({0: 23.89, 1: 23.9, 2: 23.91})
    assert found.change(NO_DISTILLATION, STAGE_1, "lpips_squeeze") == pytest.approx((0.1, 0.0, 3), abs=1e-9)
    assert found.point(STAGE_2, 2, "t=1.00") == Point("t=1.00", pytest.approx(25.01), pytest.approx(0.2999))


def test_epsilon_distance_and_lead_by_hand() -> None:
    curve = [Point("r", 20.0, 0.2), Point("f", 24.0, 0.4)]  # straight in between
    assert epsilon_distance(Point("", 22.0, 0.3), curve, X, Y) == pytest.approx(0.0, abs=1e-9)
    assert epsilon_distance(Point("", 22.0, 0.2), curve, X, Y) == pytest.approx(0.25)  # an eighth of either span
    assert epsilon_distance(Point("", 22.0, 0.4), curve, X, Y) == pytest.approx(-0.25)
    assert epsilon_distance(Point("", 25.0, 0.4), curve, X, Y) == pytest.approx(0.25)  # beyond an end, on one axis
    assert lead_at_equal_psnr(Point("", 22.0, 0.25), curve, X, Y) == pytest.approx(0.05)
    assert lead_at_equal_psnr(Point("", 22.0, 0.35), curve, X, Y) == pytest.approx(-0.05)
    assert lead_at_equal_psnr(Point("", 24.1, 0.1), curve, X, Y) is None
    with pytest.raises(ValueError, match="agree in one"):
        epsilon_distance(Point("", 22.0, 0.2), [curve[0], Point("f", 24.0, 0.2)], X, Y)


def test_the_lead_over_more_l2_is_taken_at_the_same_psnr() -> None:
    found = findings(good=True)
    # S_1 has 23.9 dB and 0.15, below all trainings without teachers; moved to 24.7 dB it stands under their chord.
    assert found.lead_over_l2(STAGE_1, 1) == pytest.approx(0.25 - 0.15)
    moved = findings(good=True, **{STAGE_1: seeds(STAGE_1, {"t=0.00": (24.7, 0.2)})})
    assert moved.lead_over_l2(STAGE_1, 1) == pytest.approx(0.25 + 0.5 * 0.1 - 0.2)
    beyond = findings(good=True, **{STAGE_1: seeds(STAGE_1, {"t=0.00": (28.0, 0.3)})})
    assert beyond.lead_over_l2(STAGE_1, 1) == pytest.approx(0.45 - 0.3)


def test_a_curve_is_held_against_the_teachers_that_it_has_learnt_from() -> None:
    key, far = "stage2/temperature_1", {**teachers(-1.0), "T_f": (20.0, 0.9)}
    found = findings(good=True, **{"chain/temperature_1": record("chain/temperature_1", 0, far)})
    assert found.against_blend(key, 0).other.hypervolume != found.against_blend(STAGE_2, 0).other.hypervolume
    assert found.blend(teachers="chain/temperature_1")[-1].x == pytest.approx(20.0)


def test_a_bent_curve_counts_with_all_of_it() -> None:
    curve = [Point("r", 20.0, 0.2), Point("m", 25.0, 0.25), Point("f", 24.0, 0.4)]  # the best PSNR lies in between
    assert epsilon_distance(Point("", 24.0, 0.3), curve, X, Y) < 0.0
    assert lead_at_equal_psnr(Point("", 24.0, 0.2), curve, X, Y) == pytest.approx(0.04)


def test_epsilon_distance_is_the_least_improvement_on_a_fine_curve() -> None:
    """Against the definition: the smallest ε by which some of many places of the curve covers the point."""
    corners = np.array([(20.0, 0.2), (23.0, 0.22), (24.0, 0.4)])
    along = np.linspace(0.0, 1.0, 20001)[:, None]
    places = np.concatenate([a + along * (b - a) for a, b in pairwise(corners)])
    curve = [Point("", *corner) for corner in corners]
    for x, y in ((22.0, 0.19), (23.5, 0.5), (19.0, 0.1), (23.9, 0.25)):
        short = np.stack([(x - places[:, 0]) / 4.0, (places[:, 1] - y) / 0.2])
        assert epsilon_distance(Point("", x, y), curve, X, Y) == pytest.approx(short.max(0).min(), abs=1e-4)


def test_the_page_says_all_of_it() -> None:
    found = findings(good=True)
    pictures = {"tradeoff": "claims_tradeoff.png"}
    text = claims_page(found, INTRODUCTION, pictures, ["By hand: **this**."])
    for part in (
        "do not edit.*\n\nHow it was made.\n\n## Verdicts",
        "| (a) | Blending the images of T_f and T_r",
        "## Reading\n\n*Written by hand",
        "By hand: **this**.",
        "![The perception-distortion plane](claims_tradeoff.png)",
        "| no distillation (λ_fl = λ_rn = 0): T_r trained on by Eq. 1 | 24.200 ± 0.010 | 0.2500 ± 0.0001 |",
        "| **+0.300 ± 0.000** |",
        "| as configured (λ_fl 0.2, λ_rn 1, γ_time 1.5) | 23.900 ± 0.010 | 0.1500 ± 0.0001 | 1.010 ± 0.000 |  |  |",
        "| t=1.00 | 25.000 ± 0.010 |",
        "without stage 2: images of S_1 and T_f blended",
        "The chain at full length, one training: psnr_y improves monotonically",
    ):
        assert part in text
    assert "stand-in" not in text
    assert text.index("## Verdicts") < text.index("## Reading") < text.index("## (a)") < text.index("## (d)")
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| `t_distribution: uniform`")}
    assert columns == {8}


def made(seeds: list[int], perceptual: str = "lpips_squeeze") -> str:
    """The introduction of a page about experiments of half a minute each."""
    table = pd.DataFrame({"image": ["a", "b", "a"]})
    planned = plan_experiments(EXPERIMENTS, seeds, ["chain", STAGE_1, STAGE_2])
    found = {e: Record(table, {"training": 20.0, "evaluation": 10.0}, {"device": "cpu, 2 threads"}) for e in planned}
    trainer: Any = SimpleNamespace(
        chain=Path("ours"), photos=Path("mine"), test=None, training_steps={"stage1": 500, "stage2": 600}.get
    )
    return "\n\n".join(introduce("python -m recipes claims --photos a", perceptual, trainer, found))


def test_the_introduction_says_how_it_was_made() -> None:
    text = made([0, 1, 2])
    for part in (
        "```bash\npython -m recipes claims --photos a\n```",
        "500 steps of 4 crops for stage 1",
        "600 for stage 2",
        "teachers are those of `ours`. Seeds 0, 1, 2 change",
        "Trained on the photographs in `mine`.",
        "Measured on 2 images: the sample photographs of scikit-image",
        "Device: cpu, 2 threads. All trainings and measurements: 5 minutes.",
        f"of changes that are nothing but chance, {200 * stats.t.sf(2, 2):.0f} % would be, with 3 seeds",
    ):
        assert part in text
    assert "stand-in" not in text


def test_a_stand_in_is_called_so() -> None:
    assert "texture_distance is this project's stand-in, not LPIPS" in made([0, 1], "texture_distance")
    table = pd.concat(tables(good=True).values()).replace({"metric": {"lpips_squeeze": "texture_distance"}})
    assert "| texture_distance ↓ |" in claims_page(Findings(table, EXPERIMENTS), INTRODUCTION, {}, "")


def test_marks() -> None:
    assert Estimate(0.5, 0.1, 3).text(2, sign=True, bold=True) == "**+0.50 ± 0.10**"
    assert Estimate(0.1, 0.1, 3).text(2, sign=True, bold=True) == "+0.10 ± 0.10"
    assert Estimate(0.5, math.nan, 1).text(2, sign=True, bold=True) == "+0.50"
    assert Estimate(0.5, 0.1, 3).text(1) == "0.5 ± 0.1"
    assert Estimate(-0.5, 0.1, 3).text(1) == "-0.5 ± 0.1"


def test_the_pictures(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, "claims", findings(good=True), SETTINGS)
    assert names == {name: f"claims_{name}.png" for name in ("tradeoff", "changes", "weights")}
    assert all(min(image_size(tmp_path / name)) > 300 for name in names.values())


def test_titles_of_axes_lie_beside_each_other() -> None:
    figure = draw_changes(findings(good=True))
    figure.canvas.draw()
    left, right = (panel.xaxis.label.get_window_extent() for panel in figure.axes)
    assert left.x1 < right.x0


def test_values_of_a_weight_are_in_order() -> None:
    found = swept_weights(findings(good=True), SETTINGS)
    assert [value for value, _ in found["γ_time"]] == [0.0, 1.5, 5.5]
    assert [key for _, key in found["λ_fl"]] == [STAGE_1, "stage1/fidelity_up"]
    high = swept_weights(findings(good=True), {**SETTINGS, "gamma_time": 30.0})
    assert [value for value, _ in high["γ_time"]] == [0.0, 5.5, 30.0]
