"""Whether the paper's claims hold in what `make claims` has measured. Numbers in, verdicts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ctsr_lightning.evaluation.frontier import Axis
from ctsr_lightning.evaluation.labels import FAITHFUL, REALISTIC
from recipes.claims.findings import PSNR, Estimate, Findings, difference, estimate, signed
from recipes.claims.plan import ALPHAS, BASE, CONTROLS, GAMMAS, TEACHERS, blend_label

Verdict = Literal["reproduced", "mixed", "not reproduced"]


def judged(signs: Sequence[int]) -> Verdict:
    """The verdict on a claim with several parts: all of them, some, or none as claimed.

    Args:
        signs: Per part 1 if it is as claimed beyond the spread, -1 if it is the other way round, 0 if neither.
    """
    if all(sign > 0 for sign in signs):
        return "reproduced"
    return "not reproduced" if max(signs) < 1 and min(signs) < 0 else "mixed"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what became of it.

    Args:
        letter: Where it stands on the page.
        text: The claim.
        verdict: The verdict.
        numbers: What it rests on, in one sentence.
    """

    letter: str
    text: str
    verdict: Verdict
    numbers: str


def claims(findings: Findings) -> list[Claim]:
    """The claims that the records at hand allow to judge.

    Args:
        findings: The records.
    """
    found: list[Claim] = []
    trained = findings.trained.keys()
    if TEACHERS not in findings.measured:
        return found
    found.append(_blend_claim(findings))
    if f"stage1/{BASE}" in trained:
        found.append(_outside_claim(findings))
    if f"stage2/{BASE}" in trained:
        found += [_sweep_claim(findings), _stage_2_claim(findings)]
    if {f"stage1/{BASE}", "stage1/no_distillation"} <= trained:
        found.append(_distillation_claim(findings))
    gammas = ["stage1/no_prior", *(f"stage1/gamma_{value:g}" for value in GAMMAS)]
    lambdas = [f"stage1/{name}" for name in ("no_fidelity", "fidelity_up", "no_realness", "realness_up")]
    for keys, name in ((gammas, "γ_time"), (lambdas, "λ_fl and λ_rn")):
        tried = [key for key in keys if key in trained]
        if tried and f"stage1/{BASE}" in trained:
            found.append(_choice_claim(findings, tried, name))
    return found


def margin(findings: Findings, axis: Axis) -> tuple[float, Estimate]:
    """The blend that is best in a metric, and by how much it is better than the better of the two teachers.

    Args:
        findings: The records.
        axis: The metric.

    Returns:
        Its share α of T_f, and the gain over images, positive if the blend is better.
    """
    record, sign = findings.measured[TEACHERS], 1.0 if axis.higher_is_better else -1.0
    alpha = max(ALPHAS, key=lambda a: sign * record.mean(blend_label(a), axis.name))
    end = max((FAITHFUL, REALISTIC), key=lambda label: sign * record.mean(label, axis.name))
    pairs = zip(record.values[blend_label(alpha)][axis.name], record.values[end][axis.name], strict=True)
    return alpha, estimate([sign * (mine - theirs) for mine, theirs in pairs])


def _blend_claim(findings: Findings) -> Claim:
    parts, signs = [], []
    for axis in findings.axes:
        alpha, gain = margin(findings, axis)
        signs.append(gain.sign)
        parts.append(f"{axis.name} at α = {alpha:.1f}: {gain.mean:+.4f} ± {gain.se:.4f} over the better teacher")
    verdict = judged([max(signs)])  # somewhere: one metric is enough
    text = "Blending the images of T_f and T_r beats each of them in some metric (Table 1)."
    return Claim("a", text, verdict, "; ".join(parts) + " (standard error over images; positive is better).")


def _outside_claim(findings: Findings) -> Claim:
    outside = findings.outside_by_seed(f"stage1/{BASE}")
    found = estimate(list(outside.values()))
    numbers = f"Signed distance from the blend's reach {signed(found)} in units of that curve's extent"
    if "stage1/no_distillation" in findings.trained:
        control = estimate(list(findings.outside_by_seed("stage1/no_distillation").values()))
        numbers += f"; the same training without distillation {signed(control)}"
    for record in findings.full():
        numbers += (
            f"; the chain's own stage 1, at full length, {findings.outside(findings.point(record, 't=0.00')):+.4f}"
        )
    return Claim("b", "Stage 1 lies outside the blend's curve.", judged([found.sign]), numbers + ".")


def _sweep_claim(findings: Findings) -> Claim:
    records = list(findings.trained[f"stage2/{BASE}"].values())
    holds = [[check.holds for check in findings.monotone(record)] for record in records]
    counts = [sum(column) for column in zip(*holds, strict=True)]
    signs = [1 if count == len(records) else -1 if count == 0 else 0 for count in counts]
    comparisons = [findings.against_blend(record) for record in records]
    gain = estimate([c.curve.hypervolume - c.other.hypervolume for c in comparisons])
    verdict = judged([*signs, gain.sign])
    lost = [c.curve.dominated for c in comparisons]
    beaten = [c.other.dominated for c in comparisons]
    numbers = (
        f"Monotone in {PSNR.name} with {counts[0]} of {len(records)} seeds, in {findings.perceptual} with {counts[1]}; "
        f"hypervolume {signed(gain)} against the blend's; of {len(CONTROLS)} points each, {_each(beaten)} of the blend "
        f"are dominated and {_each(lost)} of the sweep."
    )
    for record in findings.full():
        held = [check.metric for check in findings.monotone(record) if check.holds]
        against = findings.against_blend(record)
        numbers += (
            f" The chain's own stage 2, at full length: monotone in {' and '.join(held) or 'neither'}; hypervolume "
            f"{against.curve.hypervolume - against.other.hypervolume:+.4f}; {against.other.dominated} and "
            f"{against.curve.dominated} points dominated."
        )
    return Claim("c", "The sweep over t is monotone and dominates the blend of the teachers.", verdict, numbers)


def _stage_2_claim(findings: Findings) -> Claim:
    comparisons = [findings.against_mixture(record) for record in findings.trained[f"stage2/{BASE}"].values()]
    gain = estimate([c.curve.hypervolume - c.other.hypervolume for c in comparisons])
    text = "Stage 2 is worth more than blending the images of stage 1 and T_f."
    return Claim("d", text, judged([gain.sign]), f"Hypervolume {signed(gain)} against that blend's.")


def _distillation_claim(findings: Findings) -> Claim:
    key, base = "stage1/no_distillation", f"stage1/{BASE}"
    changes = [difference(findings.values(key, a.name), findings.values(base, a.name)) for a in findings.axes]
    text = "Without distillation PSNR rises and the perceptual distance gets worse (Table 4)."
    parts = [f"{axis.name} {signed(change)}" for axis, change in zip(findings.axes, changes, strict=True)]
    return Claim("d", text, judged([change.sign for change in changes]), "; ".join(parts) + ".")


def _choice_claim(findings: Findings, keys: Sequence[str], name: str) -> Claim:
    """Table 6: the chosen weight has the best perceptual distance of those tried."""
    base = findings.values(f"stage1/{BASE}", findings.perceptual)
    changes = {key: difference(findings.values(key, findings.perceptual), base) for key in keys}
    text = f"The chosen {name} has the best perceptual distance of the values tried (Table 6)."
    parts = [f"{key.partition('/')[2]} {signed(change)}" for key, change in changes.items()]
    numbers = f"Change in {findings.perceptual}, positive is worse: {'; '.join(parts)}."
    return Claim("d", text, judged([change.sign for change in changes.values()]), numbers)


def _each(counts: Sequence[int]) -> str:
    """`3`, or `3, 4 and 3` where seeds differ."""
    words = [str(count) for count in counts]
    return words[0] if len(set(words)) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
