"""Dominance, monotonicity and hypervolume against closed forms and against counting."""

import json
import math
import random
from itertools import pairwise

import pytest

from ctsr_lightning.frontier import Axis, Point, compare, dominates, hypervolume, monotone

UP, RIGHT = Axis("up", higher_is_better=True), Axis("right", higher_is_better=True)
PSNR, LPIPS = Axis("psnr_y", higher_is_better=True), Axis("lpips", higher_is_better=False)


def points(*coordinates: tuple[float, float]) -> list[Point]:
    return [Point(f"p{i}", *pair) for i, pair in enumerate(coordinates)]


def cloud(seed: int, number: int = 7) -> list[Point]:
    draw = random.Random(seed)
    return points(*((draw.uniform(-0.2, 1), draw.uniform(-0.2, 1)) for _ in range(number)))


def flipped(series: list[Point]) -> list[Point]:
    return [p._replace(y=-p.y) for p in series]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((25, 0.3), (24, 0.4), True),
        ((25, 0.3), (25, 0.4), True),  # equal on one axis
        ((25, 0.3), (25, 0.3), False),  # equal
        ((25, 0.3), (24, 0.2), False),  # each better on one
        ((24, 0.4), (25, 0.3), False),
    ],
)
def test_dominance(a: tuple[float, float], b: tuple[float, float], expected: bool) -> None:
    first, second = points(a, b)
    assert dominates(first, second, PSNR, LPIPS) is expected


def test_monotone_along_t() -> None:
    labels = ["t=0.00", "t=0.50", "t=1.00"]
    psnr = monotone(labels, [24.0, 25.0, 25.0], PSNR, improving=True)
    assert psnr.holds
    assert not psnr.flat
    assert psnr.sentence() == "psnr_y improves monotonically from t=0.00 to t=1.00 (24.0000 to 25.0000)."
    lpips = monotone(labels, [0.30, 0.31, 0.33], LPIPS, improving=False)
    assert lpips.holds
    assert "lpips worsens monotonically from t=0.00 to t=1.00" in lpips.sentence()
    assert not monotone(labels, [0.30, 0.31, 0.33], LPIPS, improving=True).holds


def test_the_worst_step_back_is_named() -> None:
    labels = ["t=0.00", "t=0.25", "t=0.50", "t=0.75", "t=1.00"]
    result = monotone(labels, [24.0, 24.5, 24.496, 24.9, 24.898], PSNR, improving=True)
    assert result.between == ("t=0.25", "t=0.50")
    assert result.worst == pytest.approx(0.004)
    assert "falls back by 0.004 between t=0.25 and t=0.50" in result.sentence()
    several = monotone(labels, [0.30, 0.34, 0.33, 0.32, 0.35], LPIPS, improving=False)  # small ones in a row add up
    assert several.between == ("t=0.25", "t=0.75")
    assert several.worst == pytest.approx(0.02)
    assert "improves by 0.02 between t=0.25 and t=0.75" in several.sentence()
    assert json.loads(json.dumps(several.as_dict()))["between"] == ["t=0.25", "t=0.75"]


def test_flat_and_single_series() -> None:
    for values in ([25.0, 25.0, 25.0], [25.0]):
        result = monotone([f"t={i}" for i in range(len(values))], values, PSNR, improving=True)
        assert result.holds
        assert result.flat
        assert result.worst == 0.0
        assert "flat" in result.sentence()


@pytest.mark.parametrize("axis", [PSNR, LPIPS])
@pytest.mark.parametrize("improving", [True, False])
def test_monotone_does_not_depend_on_the_sign(axis: Axis, improving: bool) -> None:
    for seed in range(5):
        values = [random.Random(seed + i).random() for i in range(6)]
        turned = Axis(axis.name, not axis.higher_is_better)
        one = monotone("abcdef", values, axis, improving)
        other = monotone("abcdef", [-v for v in values], turned, improving)
        assert (one.worst, one.between) == (other.worst, other.between)


def test_hypervolume_in_closed_form() -> None:
    bent = points((3, 1), (2, 2), (1, 3))  # 1 x 3, and two trapezoids from 3 to 2 and from 2 to 1
    assert hypervolume(bent, (0, 0), RIGHT, UP) == pytest.approx(3.0 + 2.5 + 1.5, abs=1e-12)
    assert hypervolume(points((2, 3)), (0, 1), RIGHT, UP) == 4.0
    assert hypervolume(points((2, 0), (0, 2)), (0, 0), RIGHT, UP) == pytest.approx(2.0, abs=1e-12)
    assert hypervolume(points((2, -1), (-1, 2)), (0, 0), RIGHT, UP) == pytest.approx(0.5, abs=1e-12)
    assert hypervolume(points((2, 0), (2, -1), (-1, -1)), (0, 0), RIGHT, UP) == 0.0  # on the edge, and outside
    assert hypervolume(points((0, 1), (2, 1), (2, 2), (1, 0)), (0, 0), RIGHT, UP) == 4.0  # flat, upright, falling back
    assert hypervolume([], (0, 0), RIGHT, UP) == 0.0
    assert hypervolume(points((26, 0.3)), (24, 0.5), PSNR, LPIPS) == pytest.approx(2 * 0.2, abs=1e-12)


def along(curve: list[Point], number: int) -> list[Point]:
    """Points on the straight lines between those of a curve, itself included."""
    steps = [
        (a.x + (b.x - a.x) * k / number, a.y + (b.y - a.y) * k / number)
        for a, b in pairwise(curve)
        for k in range(number)
    ]
    return points(*steps, (curve[-1].x, curve[-1].y))


@pytest.mark.parametrize("seed", range(8))
def test_hypervolume_equals_counted_columns(seed: int) -> None:
    """Any polyline, crossing itself, too: the highest of many points on it to the right of each column."""
    curve, columns = cloud(seed), 500
    dense = sorted(((p.x, p.y) for p in along(curve, 2000)), reverse=True)
    area, reached = 0.0, 0.0
    for column in reversed(range(columns)):
        while dense and dense[0][0] >= (column + 0.5) / columns:
            reached = max(reached, dense.pop(0)[1])
        area += reached / columns
    assert hypervolume(curve, (0.0, 0.0), RIGHT, UP) == pytest.approx(area, abs=2 / columns)


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_knows_no_direction_and_no_points_on_its_lines(seed: int) -> None:
    front = cloud(seed)
    expected = hypervolume(front, (0.0, 0.0), RIGHT, UP)
    for same in (front[::-1], along(front, 3), along(front[::-1], 7)):
        assert hypervolume(same, (0.0, 0.0), RIGHT, UP) == pytest.approx(expected, abs=1e-12)
    assert hypervolume(flipped(front), (0.0, -0.0), RIGHT, Axis("up", higher_is_better=False)) == expected
    exchanged = [Point(p.label, p.y, p.x) for p in front]
    assert hypervolume(exchanged, (0.0, 0.0), UP, RIGHT) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_points_on_the_lines_change_no_comparison(seed: int) -> None:
    curve, blend = cloud(seed, 5), cloud(seed + 100, 5)
    plain, dense = compare(curve, blend, [], RIGHT, UP), compare(curve, along(blend, 4), [], RIGHT, UP)
    assert dense.curve.hypervolume == plain.curve.hypervolume
    assert dense.other.hypervolume == pytest.approx(plain.other.hypervolume, abs=1e-12)
    assert (dense.curve.dominated, dense.curve.equalled) == (plain.curve.dominated, plain.curve.equalled)


def test_fewer_points_lose_nothing() -> None:
    """The same bent curve at six and at three points: no lead, neither in words nor on a straight line."""
    bent = [(24 + t, 0.3 + 0.1 * t**2) for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    curve, sparse = points(*bent), points(bent[0], bent[2], bent[5])
    result = compare(curve, sparse, [], PSNR, LPIPS)
    assert result.curve.wins(result.other)
    assert not result.dominates
    assert result.sentence().startswith(
        "Not decided: no point of CTSR is dominated by blend's curve, but that was measured at 3 points only, against 6"
    )
    assert "dominates blend" not in result.sentence()
    assert not compare(sparse, curve, [], PSNR, LPIPS).dominated
    straight = points(*((24 + t, 0.3 + 0.1 * t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)))
    ends = compare(straight, [straight[0], straight[-1]], [], PSNR, LPIPS)
    assert ends.curve.hypervolume == pytest.approx(ends.other.hypervolume, abs=1e-12)
    assert (ends.curve.dominated, ends.curve.equalled, ends.other.equalled) == (0, 5, 2)


def test_a_point_below_a_line_is_dominated() -> None:
    result = compare(points((1, 0.9)), points((0, 2), (2, 0)), [], RIGHT, UP)
    assert (result.curve.dominated, result.other.dominated) == (1, 0)
    assert compare(points((1, 1.1)), points((0, 2), (2, 0)), [], RIGHT, UP).curve.dominated == 0


def test_a_single_point_that_beats_all() -> None:
    curve = points((24, 0.30), (25, 0.34))
    blend = [Point("T_r", 23, 0.29), Point("α=0.40", 25.1, 0.295), Point("T_f", 25.2, 0.4)]
    result = compare(curve, blend, [], PSNR, LPIPS)
    assert (result.other.beats_all, result.curve.beats_all) == (("α=0.40",), ())
    assert (
        "**A single point of blend (α=0.40) beats every point of CTSR**, in both psnr_y and lpips." in result.sentence()
    )
    assert result.as_dict()["other"]["beats_all"] == ["α=0.40"]
    equal = [Point("α=0.40", 25, 0.295)]  # as good in one of them
    assert compare(curve, equal, [], PSNR, LPIPS).other.beats_all == ()
    several = compare([Point("t=0.00", 26, 0.2), Point("t=0.50", 27, 0.2)], blend, [], PSNR, LPIPS)
    assert "Single points of CTSR (t=0.00, t=0.50) beat every point of blend**" in several.sentence()


def test_a_curve_that_dominates() -> None:
    curve, blend = points((25, 0.30), (26, 0.32)), points((24, 0.31), (25.5, 0.33), (26, 0.32))
    result = compare(curve, blend, points((24, 0.5)), PSNR, LPIPS)
    assert result.dominates
    assert not result.dominated
    assert (result.other.dominated, result.other.equalled, result.curve.dominated) == (2, 1, 0)
    assert (result.reference, result.best) == ((24, 0.5), (26, 0.30))
    assert result.curve.hypervolume == pytest.approx((1 * 0.2 + 1 * 0.19) / (2 * 0.2), abs=1e-12)
    assert result.other.hypervolume == pytest.approx((1.25 * 0.18 + 0.75 * 0.185) / (2 * 0.2), abs=1e-12)
    assert result.curve.range_x == (25, 26)
    assert result.other.range_y == (0.31, 0.33)
    assert "CTSR dominates blend" in result.sentence()
    reverse = compare(blend, curve, points((24, 0.5)), PSNR, LPIPS, names=("blend", "CTSR"))
    assert not reverse.dominates
    assert reverse.dominated
    assert "CTSR dominates blend" in reverse.sentence()


def test_a_mixed_result_says_so() -> None:
    curve, blend = points((25, 0.30), (26, 0.34)), points((25.5, 0.29), (25.8, 0.36), (24, 0.28))
    result = compare(curve, blend, [], PSNR, LPIPS)
    assert not result.dominates
    assert not result.dominated
    assert "Neither curve dominates" in result.sentence()
    assert "1 of blend's 3 points" in result.sentence()
    assert "1 of CTSR's 2" in result.sentence()
    named = compare(curve, blend, [], PSNR, LPIPS, ("A", "A's own ends"))
    assert "1 of A's own ends' 3 points" in named.sentence()


def test_covering_the_other_is_not_enough() -> None:
    """All of the other is dominated, but so is a point of the curve itself."""
    assert not compare(points((3, 3), (0, 0)), points((1, 1)), [], RIGHT, UP).dominates


def test_equal_curves() -> None:
    result = compare(points((25, 0.30), (26, 0.34)), points((26, 0.34), (25, 0.30)), [], PSNR, LPIPS)
    assert result.dominates
    assert result.dominated
    assert "same front" in result.sentence()


def test_one_point_on_each_side_and_no_area() -> None:
    result = compare(points((25, 0.30)), points((25, 0.32)), [], PSNR, LPIPS)
    assert result.dominates
    assert (result.curve.hypervolume, result.other.hypervolume) == (0.0, 0.0)
    both = compare(points((25, 0.30)), points((24, 0.32)), [], PSNR, LPIPS)
    assert (both.curve.hypervolume, both.other.hypervolume) == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_comparison_does_not_depend_on_order_or_sign(seed: int) -> None:
    curve, blend, also = cloud(seed, 5), cloud(seed + 100, 6), cloud(seed + 200, 2)
    result = compare(curve, blend, also, RIGHT, UP)
    assert 0.0 <= result.curve.hypervolume <= 1.0
    back = compare(curve[::-1], blend[::-1], also[::-1], RIGHT, UP)
    assert back.other.hypervolume == pytest.approx(result.other.hypervolume, abs=1e-12)
    assert (back.curve.dominated, back.other.dominated) == (result.curve.dominated, result.other.dominated)
    down = Axis("up", higher_is_better=False)
    turned = compare(flipped(curve), flipped(blend), flipped(also), RIGHT, down)
    for mine, theirs in ((result.curve, turned.curve), (result.other, turned.other)):
        assert (mine.dominated, mine.equalled) == (theirs.dominated, theirs.equalled)
        assert mine.hypervolume == pytest.approx(theirs.hypervolume, abs=1e-12)


def test_a_comparison_is_plain_json() -> None:
    result = compare(points((25, 0.30)), points((24, 0.32)), points((27, 0.45)), PSNR, LPIPS)
    record = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert record == result.as_dict()
    assert record["dominates"] is True
    assert record["curve"]["name"] == "CTSR"
    assert record["reference"] == [24, 0.45]
    assert record["y"] == {"name": "lpips", "higher_is_better": False}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    good, broken = points((25, 0.3)), [Point("t=0.50", 25, bad)]
    with pytest.raises(ValueError, match=r"lpips .* at t=0.50"):
        compare(good, broken, [], PSNR, LPIPS)
    with pytest.raises(ValueError, match="finite"):
        compare(good, good, broken, PSNR, LPIPS)
    with pytest.raises(ValueError, match="finite"):
        dominates(good[0], broken[0], PSNR, LPIPS)
    with pytest.raises(ValueError, match="finite"):
        hypervolume(broken, (24, 0.5), PSNR, LPIPS)
    with pytest.raises(ValueError, match="finite"):
        hypervolume(good, (24, bad), PSNR, LPIPS)
    with pytest.raises(ValueError, match="finite"):
        monotone(["t=0.00", "t=0.50"], [0.3, bad], LPIPS, improving=False)


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one point on each curve"):
        compare(points((25, 0.3)), [], [], PSNR, LPIPS)
    with pytest.raises(ValueError, match="at least one value"):
        monotone([], [], PSNR, improving=True)
    with pytest.raises(ValueError, match="2 labels"):
        monotone(["a", "b"], [1.0], PSNR, improving=True)
