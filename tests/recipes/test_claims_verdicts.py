"""Verdicts, tables and pictures of `make claims` from numbers that are made up, for and against the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ctsr_lightning.evaluation.frontier import Axis, Point
from ctsr_lightning.evaluation.plots import control_label
from ctsr_lightning.images import image_size
from recipes.claims.findings import Estimate, Findings, difference, estimate, lead, reach
from recipes.claims.page import Making, page
from recipes.claims.plan import (
    ALPHAS,
    CONTROLS,
    MIXED,
    blend_label,
    measured,
    stage_1,
    stage_2,
)
from recipes.claims.plots import sweeps, write_pictures
from recipes.claims.records import Record
from recipes.claims.tables import mark, spread
from recipes.claims.verdicts import Claim, claims, judged

X, Y = Axis("psnr_y", higher_is_better=True), Axis("lpips_squeeze", higher_is_better=False)
LAMBDAS = {"lambda_fidelity": 0.2, "lambda_realness": 1.0, "gamma_time": 5.5}
VARIATIONS = [*measured(full=True), *stage_1(LAMBDAS), *stage_2()]
MAKING = Making(
    "python -m recipes claims --data a",
    [0, 1, 2],
    (120, 180),
    "photographs",
    "others",
    "ours",
    ["cpu, 2 threads"],
    31.4,
)


def record(points: Mapping[str, tuple[float, float]], shift: float = 0.0) -> Record:
    """Four images around given means; `shift` moves PSNR as a seed would."""
    values = {
        method: {
            "psnr_y": [psnr + shift + offset for offset in (-2.0, 1.0, 1.0, 0.0)],
            "lpips_squeeze": [distance - shift / 100 + offset / 100 for offset in (1.0, -1.0, 0.5, -0.5)],
            "grid_energy": [1.0, 1.02, 1.0, 1.02],
        }
        for method, (psnr, distance) in points.items()
    }
    return Record("x", ["a", "b", "c", "d"], values, {"training": 30.0}, {"device": "cpu"})


def teachers(gain: float) -> Record:
    """T_r at 22 dB and 0.2, T_f at 24 dB and 0.4; with a gain, blends are better than both, without, on the chord."""
    blends = {
        blend_label(a): (22.0 + 2.0 * a + 4.0 * gain * a * (1 - a), 0.2 + 0.2 * a - 0.3 * gain * a * (1 - a))
        for a in ALPHAS
    }
    return record({"bicubic": (21.5, 0.6), "T_f": (24.0, 0.4), "T_r": (22.0, 0.2), **blends})


def student(start: tuple[float, float], end: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """A straight path over t, and the straight blend with T_f."""

    def between(share: float, to: tuple[float, float]) -> tuple[float, float]:
        return start[0] + share * (to[0] - start[0]), start[1] + share * (to[1] - start[1])

    path = {control_label(t): between(t, end) for t in CONTROLS}
    return {**path, **{f"{MIXED}{a:.1f}": between(a, (24.0, 0.4)) for a in CONTROLS[1:-1]}}


def seeds(points: Mapping[str, tuple[float, float]], wobble: float = 0.01) -> dict[int, Record]:
    return {seed: record(points, wobble * (seed - 1)) for seed in range(3)}


def findings(*, good: bool) -> Findings:
    """Everything as the paper says, or nothing of it."""
    start, end = ((23.9, 0.15), (25.0, 0.3)) if good else ((21.8, 0.39), (21.6, 0.34))
    sign = 1.0 if good else -1.0

    def moved(psnr: float, distance: float) -> dict[int, Record]:
        return seeds({"t=0.00": (start[0] + sign * psnr, start[1] + sign * distance)})

    trained = {variation.key: moved(-0.2, 0.03) for variation in stage_1(LAMBDAS)}
    trained |= {variation.key: seeds(student(start, end)) for variation in stage_2()}
    trained |= {"stage1/base": seeds({"t=0.00": start}), "stage1/no_distillation": moved(0.3, 0.1)}
    full = {"full_length": record(student(start, end))}
    return Findings({"teachers": teachers(1.0 if good else -1.0), **full}, trained, "lpips_squeeze")


def verdicts(found: Findings) -> list[tuple[str, str]]:
    return [(claim.letter, claim.verdict) for claim in claims(found)]


def by_text(found: Findings, word: str) -> Claim:
    (claim,) = [claim for claim in claims(found) if word in claim.text]
    return claim


def test_a_world_like_the_papers() -> None:
    assert verdicts(findings(good=True)) == [(letter, "reproduced") for letter in "abcdddd"]


def test_a_world_unlike_it() -> None:
    assert verdicts(findings(good=False)) == [(letter, "not reproduced") for letter in "abcdddd"]


def test_one_metric_is_enough_for_the_blend() -> None:
    found = findings(good=False)
    values = {method: dict(metrics) for method, metrics in teachers(-1.0).values.items()}
    values["α=0.8"]["psnr_y"] = [value + 0.5 for value in values["T_f"]["psnr_y"]]
    found.measured["teachers"] = replace(teachers(-1.0), values=values)
    claim = by_text(found, "Blending")
    assert claim.verdict == "reproduced"
    assert "psnr_y at α = 0.8: +0.5000 ± 0.0000" in claim.numbers


def test_a_lead_within_the_spread_is_mixed() -> None:
    found = findings(good=True)
    on_the_edge = {seed: record({"t=0.00": (22.0 + wobble, 0.19)}) for seed, wobble in enumerate((-3.0, 0.0, 3.0))}
    found.trained["stage1/base"] = on_the_edge
    assert by_text(found, "outside").verdict == "mixed"


def test_a_sweep_that_turns_back_with_one_seed_is_mixed() -> None:
    found = findings(good=True)
    path = student((23.9, 0.15), (25.0, 0.3))
    found.trained["stage2/base"][1] = record({**path, "t=0.60": path["t=0.40"], "t=0.40": path["t=0.60"]})
    claim = by_text(found, "monotone")
    assert claim.verdict == "mixed"
    assert "Monotone in psnr_y with 2 of 3 seeds, in lpips_squeeze with 2" in claim.numbers


def test_one_seed_is_judged_by_its_signs() -> None:
    found = findings(good=True)
    single = {key: {0: records[0]} for key, records in found.trained.items()}
    one = Findings(found.measured, single, "lpips_squeeze")
    assert {verdict for _, verdict in verdicts(one)} == {"reproduced"}
    text = page(one, VARIATIONS, replace(MAKING, seeds=[0]), {}, "")
    assert "with one seed nothing is known about the spread" in text
    assert "**+" not in text


def test_without_records_there_are_no_verdicts() -> None:
    assert claims(Findings({}, {}, "lpips_squeeze")) == []
    only = Findings({"teachers": teachers(1.0)}, {}, "lpips_squeeze")
    assert verdicts(only) == [("a", "reproduced")]
    assert "## (b)" not in page(only, VARIATIONS, MAKING, {}, "")


def test_judged() -> None:
    assert judged([1, 1]) == "reproduced"
    assert judged([1, -1]) == judged([1, 0]) == judged([0, 0]) == "mixed"
    assert judged([-1, 0]) == judged([-1]) == "not reproduced"


def test_an_estimate_is_the_sample_statistics() -> None:
    found = estimate([1.0, 2.0, 6.0])
    assert found == Estimate(3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert found.se == pytest.approx(math.sqrt(7.0 / 3.0))
    assert found.sign == 0
    assert estimate([1.0, 1.1, 1.2]).sign == 1
    assert estimate([-1.0, -1.1, -1.2]).sign == -1
    assert estimate([0.0, 0.0]).sign == 0
    assert math.isnan(estimate([4.0]).sd)


def test_differences_are_paired_by_seed() -> None:
    found = difference({0: 10.0, 1: 20.0, 2: 30.0}, {2: 29.0, 1: 19.0, 0: 9.0, 3: 0.0})
    assert (found.mean, found.sd, found.repeats) == (1.0, 0.0, 3)
    with pytest.raises(ValueError, match="seed in common"):
        difference({0: 1.0}, {1: 1.0})


def test_reach_and_lead_by_hand() -> None:
    curve = [Point("r", 20.0, 0.2), Point("f", 24.0, 0.4)]  # straight in between
    assert reach(Point("", 22.0, 0.3), curve, X, Y) == pytest.approx(0.0, abs=1e-9)
    assert reach(Point("", 22.0, 0.2), curve, X, Y) == pytest.approx(0.25)  # an eighth of either span to each side
    assert reach(Point("", 22.0, 0.4), curve, X, Y) == pytest.approx(-0.25)
    assert reach(Point("", 25.0, 0.4), curve, X, Y) == pytest.approx(0.25)  # beyond an end, on one axis
    assert lead(Point("", 22.0, 0.25), curve, X, Y) == pytest.approx(0.05)
    assert lead(Point("", 22.0, 0.35), curve, X, Y) == pytest.approx(-0.05)
    assert lead(Point("", 24.1, 0.1), curve, X, Y) is None
    with pytest.raises(ValueError, match="agree in one"):
        reach(Point("", 22.0, 0.2), [curve[0], Point("f", 24.0, 0.2)], X, Y)


def test_reach_of_a_bent_curve_counts_all_of_it() -> None:
    curve = [Point("r", 20.0, 0.2), Point("m", 25.0, 0.25), Point("f", 24.0, 0.4)]  # the best PSNR lies in between
    assert reach(Point("", 24.0, 0.3), curve, X, Y) < 0.0
    assert lead(Point("", 24.0, 0.2), curve, X, Y) == pytest.approx(0.04)


def test_the_page_says_all_of_it() -> None:
    found = findings(good=True)
    pictures = {"tradeoff": "claims_tradeoff.png"}
    text = page(found, VARIATIONS, MAKING, pictures, "By hand: **this**.\n")
    for part in (
        "```bash\npython -m recipes claims --data a\n```",
        "120 steps of 4 crops for stage 1",
        "of changes that are nothing but chance, 18 % would be, with 3 seeds",
        "| (a) | Blending the images of T_f and T_r",
        "## Reading\n\n*Written by hand",
        "By hand: **this**.",
        "![The perception-distortion plane](claims_tradeoff.png)",
        "| no distillation (λ_fl = λ_rn = 0) | 24.200 ± 0.010 | 0.2500 ± 0.0001 | 1.010 ± 0.000 | **+0.300 ± 0.000** |",
        "| as configured (λ_fl 0.2, λ_rn 1, γ_time 5.5) | 23.900 ± 0.010 | 0.1500 ± 0.0001 | 1.010 ± 0.000 |  |  |",
        "| t=1.00 | 25.000 ± 0.010 |",
        "without stage 2: images of S_1 and T_f blended",
        "The chain at full length, one training: psnr_y improves monotonically",
    ):
        assert part in text
    assert "stand-in" not in text
    assert text.index("## Verdicts") < text.index("## Reading") < text.index("## (a)") < text.index("## (d)")
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| v sees z_L")}
    assert columns == {8}


def test_a_stand_in_is_called_so() -> None:
    only = Findings({"teachers": record({})}, {}, "texture_distance")
    only.measured = {}
    assert "texture_distance is this project's stand-in, not LPIPS" in page(only, VARIATIONS, MAKING, {}, "")


def test_marks() -> None:
    assert mark(Estimate(0.5, 0.1, 3), 2) == "**+0.50 ± 0.10**"
    assert mark(Estimate(0.1, 0.1, 3), 2) == "+0.10 ± 0.10"
    assert mark(Estimate(0.5, math.nan, 1), 2) == "+0.50"
    assert spread(Estimate(0.5, 0.1, 3), 1) == "0.5 ± 0.1"
    assert spread(Estimate(-0.5, 0.1, 3), 1) == "-0.5 ± 0.1"


def test_the_pictures(tmp_path: Path) -> None:
    found = findings(good=True)
    names = write_pictures(tmp_path, "claims", found, VARIATIONS)
    assert names == {name: f"claims_{name}.png" for name in ("tradeoff", "changes", "weights")}
    assert all(min(image_size(tmp_path / name)) > 300 for name in names.values())
    bare = Findings({"teachers": teachers(1.0)}, {}, "lpips_squeeze")
    assert write_pictures(tmp_path, "bare", bare, VARIATIONS).keys() == {"tradeoff"}


def test_sweeps_are_in_order() -> None:
    found = sweeps(VARIATIONS, findings(good=True))
    assert [label for label, _ in found["γ_time"]] == ["0", "1", "5.5", "20"]
    high = sweeps(stage_1({**LAMBDAS, "gamma_time": 30.0}), findings(good=True))
    assert [label for label, _ in high["γ_time"]] == ["0", "1", "20", "30"]
