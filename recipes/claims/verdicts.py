"""Whether the paper's claims hold in the measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from ctsr_lightning.evaluation.labels import FAITHFUL, REALISTIC
from ctsr_lightning.frontier import Axis
from recipes.claims.experiments import (
    ALPHAS,
    CONTROLS,
    FULL,
    NO_DISTILLATION,
    STAGE_1,
    STAGE_2,
    TEACHERS,
    TEMPERATURE,
    TRAINED_LONGER,
)
from recipes.claims.findings import PSNR, Estimate, Findings, blend_label, paired_difference

Verdict = Literal["reproduced", "mixed", "not reproduced"]


class Evidence(NamedTuple):
    """Numbers that a claim rests on.

    Args:
        signs: Per part of the claim 1 if it is as claimed beyond the spread, -1 if the other way round, 0 if neither.
        numbers: The same in one sentence.
    """

    signs: Sequence[int]
    numbers: str


class Claim(NamedTuple):
    """A claim of the paper with its place on the page, the verdict, and for those open, how it could be settled."""

    letter: str
    text: str
    verdict: Verdict
    numbers: str
    settled_by: str


def verdict(signs: Sequence[int]) -> Verdict:
    """The verdict on a claim with several parts: all of them, some, or none as claimed; signs as in `Evidence`."""
    if all(sign > 0 for sign in signs):
        return "reproduced"
    return "not reproduced" if max(signs) < 1 and min(signs) < 0 else "mixed"


def judge_claims(findings: Findings) -> list[Claim]:
    """The verdicts on all claims; those about a weight of which no other value was tried are left out."""
    judged = []
    for letter, text, evidence, settled_by in claims_of(findings):
        if (found := evidence(findings)).signs:
            result = verdict(found.signs)
            judged.append(Claim(letter, text, result, found.numbers, "" if result == "reproduced" else settled_by))
    return judged


def best_blend(findings: Findings, axis: Axis, teachers: str = TEACHERS) -> tuple[float, Estimate]:
    """Share α of T_f of the blend that is best in a metric, and its gain over the better teacher, over images."""
    sign = 1.0 if axis.higher_is_better else -1.0
    alpha = max(ALPHAS, key=lambda a: sign * findings.images(blend_label(a), axis.name, teachers).mean())
    end = max((FAITHFUL, REALISTIC), key=lambda label: sign * findings.images(label, axis.name, teachers).mean())
    blend, teacher = (sign * findings.images(label, axis.name, teachers) for label in (blend_label(alpha), end))
    return alpha, paired_difference(blend, teacher)


def _blend(teachers: str) -> Callable[[Findings], Evidence]:
    """Whether some blend beats both teachers."""

    def evidence(findings: Findings) -> Evidence:
        gains = {axis.name: best_blend(findings, axis, teachers) for axis in findings.axes}
        parts = [
            f"{name} at α = {alpha:.1f}: {gain.mean:+.4f} ± {gain.se:.4f} over the better teacher"
            for name, (alpha, gain) in gains.items()
        ]
        signs = [max(gain.sign for _, gain in gains.values())]  # somewhere: one metric is enough
        return Evidence(signs, "; ".join(parts) + " (standard error over images; positive is better).")

    return evidence


def _outside(findings: Findings) -> Evidence:
    found, control = (Estimate.of(findings.by_seed(key, findings.outside)) for key in (STAGE_1, NO_DISTILLATION))
    full = f"; the chain's own stage 1, at full length, {findings.outside(FULL, 0):+.4f}" if findings.full else ""
    numbers = f"Signed distance from the blend's reach {found.text(sign=True)} in units of that curve's extent; "
    return Evidence([found.sign], f"{numbers}the same training without distillation {control.text(sign=True)}{full}.")


def _against_l2(findings: Findings) -> Evidence:
    lead = Estimate.of(findings.by_seed(STAGE_1, findings.lead_over_l2))
    numbers = (
        f"Lead in {findings.perceptual} over trainings without teachers and with more λ_l2 {lead.text(sign=True)}."
    )
    return Evidence([lead.sign], numbers)


def _against_time(findings: Findings) -> Evidence:
    both = [findings.by_seed(key, findings.outside) for key in (STAGE_1, TRAINED_LONGER)]
    gain = paired_difference(*both)
    return Evidence(
        [gain.sign], f"Signed distance from the blend's reach, with teachers minus without {gain.text(sign=True)}."
    )


def _sweep(key: str) -> Callable[[Findings], Evidence]:
    return lambda findings: _sweep_of(findings, key)


def _sweep_of(findings: Findings, key: str) -> Evidence:
    holds = findings.by_seed(key, lambda *run: [check.holds for check in findings.monotone(*run)])
    counts = [sum(column) for column in zip(*holds, strict=True)]
    signs = [1 if count == len(holds) else -1 if count == 0 else 0 for count in counts]
    against = list(findings.by_seed(key, findings.against_blend))
    gain = Estimate.of(c.curve.hypervolume - c.other.hypervolume for c in against)
    numbers = (
        f"Monotone in {PSNR.name} with {counts[0]} of {len(holds)} seeds, in {findings.perceptual} with {counts[1]}; "
        f"hypervolume {gain.text(sign=True)} against the blend's; of {len(CONTROLS)} points each, "
        f"{_each([c.other.dominated for c in against])} of the blend are dominated and "
        f"{_each([c.curve.dominated for c in against])} of the sweep."
    )
    if findings.full and key == STAGE_2:
        held = " and ".join(check.metric for check in findings.monotone(FULL, 0) if check.holds) or "neither"
        full = findings.against_blend(FULL, 0)
        numbers += (
            f" The chain's own stage 2, at full length: monotone in {held}; hypervolume "
            f"{full.curve.hypervolume - full.other.hypervolume:+.4f}; {full.other.dominated} and "
            f"{full.curve.dominated} points dominated."
        )
    return Evidence([*signs, gain.sign], numbers)


def _stage_2(findings: Findings) -> Evidence:
    against = findings.by_seed(STAGE_2, findings.against_mixture)
    gain = Estimate.of(c.curve.hypervolume - c.other.hypervolume for c in against)
    return Evidence([gain.sign], f"Hypervolume {gain.text(sign=True)} against that blend's.")


def _distillation(findings: Findings) -> Evidence:
    changes = {axis.name: findings.change(NO_DISTILLATION, STAGE_1, axis.name) for axis in findings.axes}
    parts = [f"{name} {change.text(sign=True)}" for name, change in changes.items()]
    return Evidence([change.sign for change in changes.values()], "; ".join(parts) + ".")


def _best_weight(*weights: str) -> Callable[[Findings], Evidence]:
    """Whether all other values of these weights make the perceptual distance worse."""

    def evidence(findings: Findings) -> Evidence:
        name = findings.perceptual
        tried = [e.key for weight in weights for e in findings.tried(weight)]
        changes = {key.partition("/")[2]: findings.change(key, STAGE_1, name) for key in tried}
        parts = [f"{key} {change.text(sign=True)}" for key, change in changes.items()]
        numbers = f"Change in {name}, positive is worse: {'; '.join(parts)}."
        return Evidence([change.sign for change in changes.values()], numbers)

    return evidence


def _each(counts: Sequence[int]) -> str:
    """`3`, or `3, 4 and 3` where seeds differ."""
    words = [str(count) for count in counts]
    return words[0] if len(set(words)) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


ClaimText = tuple[str, str, Callable[[Findings], Evidence], str]
"""Place on the page, claim, evidence, and what would settle it."""

_PUBLISHED: Final = (
    "the published teachers, which differ in codec, architecture and data (`python -m recipes tables 1`)"
)


def claims_of(findings: Findings) -> list[ClaimText]:
    """The claims that the experiments speak about, those on T_f once for every temperature tried."""
    blend = "Blending the images of T_f and T_r beats each of them in some metric (Table 1); {}."
    sweep = "The sweep over t is monotone and dominates the blend of the teachers; {}."
    swept = [
        e for e in findings.experiments if e.group == "stage2" and (e.key == STAGE_2 or TEMPERATURE in e.overrides)
    ]
    named = {e.key: e.text for e in findings.teachers}
    return [
        *(("a", blend.format(text), _blend(key), _PUBLISHED) for key, text in named.items()),
        ("b", "Stage 1 lies outside the blend's curve.", _outside, _PUBLISHED),
        (
            "b",
            "At equal PSNR stage 1 has a lower perceptual distance than plain training with more λ_l2.",
            _against_l2,
            _PUBLISHED,
        ),
        (
            "b",
            "Stage 1 lies further out than T_r trained on without teachers for as long.",
            _against_time,
            "Table 4 at full size, with that control (`python -m recipes tables 4`)",
        ),
        *(
            (
                "c",
                sweep.format(named[e.teachers]),
                _sweep(e.key),
                "a codec that is not nearly linear, Stable Diffusion's (Table 7)",
            )
            for e in swept
        ),
        (
            "d",
            "Stage 2 is worth more than blending the images of stage 1 and T_f.",
            _stage_2,
            "the same at full size (Table 7)",
        ),
        (
            "d",
            "Without distillation PSNR rises and the perceptual distance gets worse (Table 4).",
            _distillation,
            "Table 4 at full size",
        ),
        (
            "d",
            "The chosen γ_time has the best perceptual distance of the values tried (Table 6).",
            _best_weight("gamma_time"),
            "Table 6 at full size (`python -m recipes tables 6`)",
        ),
        (
            "d",
            "The chosen λ_fl and λ_rn has the best perceptual distance of the values tried (Table 6).",
            _best_weight("lambda_fidelity", "lambda_realness"),
            "Table 6 at full size",
        ),
    ]
