"""The tables of `make claims`: one section of the page for each claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from ctsr_lightning.evaluation.frontier import Point, compare
from ctsr_lightning.evaluation.labels import BICUBIC, FAITHFUL, GRID, REALISTIC
from ctsr_lightning.evaluation.plots import control_label
from recipes.claims.findings import PSNR, Estimate, Findings, difference, estimate, lead, signed
from recipes.claims.plan import ALPHAS, BASE, CONTROLS, TEACHERS, Variation, blend_label
from recipes.claims.records import Record


def blend_section(findings: Findings) -> str:
    """Claim (a): the teachers and their blend. Empty where its records are missing.

    Args:
        findings: What was measured.
    """
    if TEACHERS not in findings.measured:
        return ""
    teachers = findings.measured[TEACHERS]
    rows = []
    for label in (BICUBIC, REALISTIC, *(blend_label(alpha) for alpha in ALPHAS), FAITHFUL):
        name = {REALISTIC: "T_r (α = 0)", FAITHFUL: "T_f (α = 1)"}.get(label, label)
        means = teachers.means(label)
        rows.append([name, f"{means[PSNR.name]:.3f}", f"{means[findings.perceptual]:.4f}", f"{means[GRID]:.3f}"])
    text = "α T_f + (1 - α) T_r in image space. No training, no seeds: the spread in the verdict is over images."
    return f"## (a) Blending the teachers\n\n{text}\n\n{table(['', *_heads(findings), GRID], rows)}"


def outside_section(findings: Findings) -> str:
    """Claim (b): stage 1 against the blend. Empty where its records are missing.

    Args:
        findings: What was measured.
    """
    base = f"stage1/{BASE}"
    if base not in findings.trained or TEACHERS not in findings.measured:
        return ""
    named = {
        "S_1": _points(findings, findings.trained[base]),
        "S_1 without distillation": _points(findings, findings.trained.get("stage1/no_distillation", {})),
        "S_1 at full length": _points(findings, dict(enumerate(findings.full()))),
        "T_r, where S starts": [findings.point(findings.measured[TEACHERS], REALISTIC)],
    }
    rows = []
    for name, points in named.items():
        if points:
            leads = [lead(point, findings.blend(), *findings.axes) for point in points]
            known = [value for value in leads if value is not None]
            beyond = "beyond its PSNR" if not known else spread(estimate(known), 4, sign=True)
            cells = [spread(estimate([p.x for p in points]), 3), spread(estimate([p.y for p in points]), 4)]
            distance = spread(estimate([findings.outside(p) for p in points]), 3, sign=True)
            rows.append([name, *cells, beyond, distance])
    head = ["", *_heads(findings), f"lead in {findings.perceptual}", "signed distance"]
    text = (
        f"The lead is over the best {findings.perceptual} of the blend at no lower PSNR. The signed distance is the "
        "least improvement on both axes with which the blend would match the point, in units of the blend's extent on "
        "each; positive lies outside. Between measured α the blend is taken as straight."
    )
    return f"## (b) Stage 1 against the blend\n\n{text}\n\n{table(head, rows)}"


def sweep_section(findings: Findings) -> str:
    """Claim (c): the curve over t. Empty where its records are missing.

    Args:
        findings: What was measured.
    """
    key = f"stage2/{BASE}"
    if key not in findings.trained or TEACHERS not in findings.measured:
        return ""
    full = dict(enumerate(findings.full()))
    rows = []
    for control in CONTROLS:
        label = control_label(control)
        row = [label, *_cells(findings, findings.trained[key], label)]
        rows.append(row + (_cells(findings, full, label) if full else []))
    heads = [*_heads(findings), GRID]
    head = ["", *heads, *([f"{name}, full length" for name in heads] if full else [])]
    against = [findings.against_blend(record) for record in findings.trained[key].values()]
    corner = against[0].reference
    volumes = spread(estimate([c.curve.hypervolume for c in against]), 4)
    volume = (
        f"Hypervolume, as a share of the box above {PSNR.name} {corner[0]:.3f} and {findings.perceptual} "
        f"{corner[1]:.4f} (the worst of all points, bicubic enlargement included): sweep {volumes}, blend of T_f and "
        f"T_r {against[0].other.hypervolume:.4f}, each by {len(CONTROLS)} points joined by straight lines."
    )
    lines = [volume]
    for record in full.values():
        checks = " ".join(check.sentence() for check in findings.monotone(record))
        lines.append(f"The chain at full length, one training: {checks} {findings.against_blend(record).sentence()}")
    return "## (c) The sweep over t\n\n" + table(head, rows) + "\n\n" + "\n\n".join(lines)


def stage_1_section(findings: Findings, variations: Sequence[Variation]) -> str:
    """Ablations of stage 1. Empty where its records are missing.

    Args:
        findings: What was measured.
        variations: All variations, in the order of the table.
    """
    base = f"stage1/{BASE}"
    if base not in findings.trained or TEACHERS not in findings.measured:
        return ""
    rows = []
    for variation in (v for v in variations if v.group == "stage1" and v.key in findings.trained):
        records = findings.trained[variation.key]
        cells = [variation.text, *_cells(findings, records, "t=0.00")]
        changes = [change(findings, variation.key, base, axis.name, "t=0.00") for axis in findings.axes]
        outside = spread(estimate(list(findings.outside_by_seed(variation.key).values())), 3, sign=True)
        shown = ["", ""] if variation.key == base else [mark(c, d) for c, d in zip(changes, (3, 4), strict=True)]
        rows.append([*cells, *shown, outside])
    head = ["", *_heads(findings), GRID, f"Δ {PSNR.name}", f"Δ {findings.perceptual}", "outside the blend by"]
    text = (
        "Prior without align is made by weights: λ_fl and λ_rn times 1e-6, γ_time times 1e6. That leaves λ γ_time, the "
        "weight of prior, as it is, and align at a millionth. The last column is the signed distance of (b)."
    )
    return f"## (d) Ablations of stage 1\n\n{table(head, rows)}\n\n{text}"


def stage_2_section(findings: Findings, variations: Sequence[Variation]) -> str:
    """Ablations of stage 2. Empty where its records are missing.

    Args:
        findings: What was measured.
        variations: All variations, in the order of the table.
    """
    base = f"stage2/{BASE}"
    if base not in findings.trained or TEACHERS not in findings.measured:
        return ""
    volumes: dict[str, dict[int, float]] = {
        v.key: {s: findings.against_blend(r).curve.hypervolume for s, r in findings.trained[v.key].items()}
        for v in variations
        if v.group == "stage2" and v.key in findings.trained
    }
    names = {v.key: v.text for v in variations}
    columns: dict[str, Callable[[Record], float]] = {
        "PSNR-Y, t = 0": lambda r: r.mean("t=0.00", PSNR.name),
        "PSNR-Y, t = 1": lambda r: r.mean("t=1.00", PSNR.name),
        f"{findings.perceptual}, t = 0": lambda r: r.mean("t=0.00", findings.perceptual),
        f"{findings.perceptual}, t = 1": lambda r: r.mean("t=1.00", findings.perceptual),
    }
    rows = []
    for key, volume in volumes.items():
        records = findings.trained[key].values()
        digits = (3, 3, 4, 4)
        cells = [spread(estimate([of(r) for r in records]), d) for of, d in zip(columns.values(), digits, strict=True)]
        gain = "" if key == base else mark(difference(volume, volumes[base]), 4)
        rows.append([names[key], *cells, spread(estimate(list(volume.values())), 4), gain])
    mixed = {s: findings.against_mixture(r).other.hypervolume for s, r in findings.trained[base].items()}
    alone = {s: _alone(findings, r) for s, r in findings.trained[base].items()}
    for text, volume in (
        ("without stage 2: images of S_1 and T_f blended", mixed),
        ("without stage 2: S_1 alone", alone),
    ):
        gain = mark(difference(volume, volumes[base]), 4)
        rows.append([text, "", "", "", "", spread(estimate(list(volume.values())), 4), gain])
    head = ["", *columns, "hypervolume", "Δ hypervolume"]
    return f"## (d) Ablations of stage 2\n\n{table(head, rows)}\n\nHypervolume as in (c), over {len(CONTROLS)} points."


def _alone(findings: Findings, record: Record) -> float:
    """Hypervolume of stage 1's point by itself, in the box of all."""
    point = findings.point(record, "t=0.00")
    return compare([point], [point], findings.everything(), *findings.axes).curve.hypervolume


def change(findings: Findings, key: str, base: str, metric: str, method: str) -> Estimate:
    """What a variation changes in a metric, each seed against the base of the same seed.

    Args:
        findings: What was measured.
        key: The variation.
        base: The base.
        metric: The metric.
        method: What restored.
    """
    return difference(findings.values(key, metric, method), findings.values(base, metric, method))


def _points(findings: Findings, records: Mapping[int, Record]) -> list[Point]:
    return [findings.point(record, "t=0.00") for record in records.values()]


def _cells(findings: Findings, records: Mapping[int, Record], method: str) -> list[str]:
    """PSNR-Y, perceptual distance and grid energy over seeds."""
    digits = {PSNR.name: 3, findings.perceptual: 4, GRID: 3}
    return [spread(estimate([r.mean(method, name) for r in records.values()]), d) for name, d in digits.items()]


def _heads(findings: Findings) -> list[str]:
    return ["PSNR-Y ↑", f"{findings.perceptual} ↓"]


def spread(value: Estimate, digits: int, *, sign: bool = False) -> str:
    """`25.123 ± 0.010`, mean and standard deviation over seeds.

    Args:
        value: The estimate.
        digits: Decimals.
        sign: Whether positive values carry a sign.
    """
    text = signed(value, digits)
    return text if sign else text.removeprefix("+")


def mark(value: Estimate, digits: int) -> str:
    """A change, bold where it lies beyond two standard errors.

    Args:
        value: The change.
        digits: Decimals.
    """
    text = signed(value, digits)
    return f"**{text}**" if value.sign and not math.isnan(value.sd) else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        head: Titles of the columns.
        rows: Cells.
    """
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
