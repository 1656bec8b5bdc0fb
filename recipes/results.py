"""`python -m recipes results`: a page with our figures beside the published ones."""

# Annotations are not postponed here: the parser needs them as types.
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctsr_lightning.evaluation.labels import GROUND_TRUTH

SUMMARIES = ("summary.json", "tradeoff.json")
"""What `ctsr evaluate` and `ctsr sweep` leave, in this order of preference."""

PLOT = "tradeoff.png"
"""The plot of a sweep, which is copied beside the page."""

OWN = frozenset({"ctsr", "teacher", "blend", "restored"})
"""Kinds of methods that belong to a run's model; others, such as bicubic enlargement, are the same in all runs."""

COLUMNS = {
    "psnr_y": ("PSNR-Y ↑", 2),
    "ssim_y": ("SSIM-Y ↑", 4),
    "lpips_alex": ("LPIPS-Alex ↓", 4),
    "lpips_vgg": ("LPIPS-VGG ↓", 4),
    "lpips_squeeze": ("LPIPS-Squeeze ↓", 4),
    "dists": ("DISTS ↓", 4),
    "fid_inception_clean": ("FID ↓", 2),
    "niqe": ("NIQE ↓", 2),
    "musiq": ("MUSIQ ↑", 2),
    "maniqa_pipal": ("MANIQA ↑", 4),
    "clipiqa": ("CLIPIQA ↑", 4),
    "texture_distance": ("texture_distance ↓", 4),
    "grid_energy": ("grid energy → 1", 3),
    "lattice_4": ("lattice 4, dB → gt", 1),
    "lattice_8": ("lattice 8, dB → gt", 1),
}
"""Metrics in the order of the page: heading and decimals."""


def results(*runs: str, output: str | Path = "docs/results.md") -> int:
    """Write the results page: measured runs beside the published figures that share their protocol.

    Each run is a folder that `ctsr evaluate --data FILE` or `ctsr sweep --data FILE` has left; the data configuration's
    name (realsr, drealsr, div2k_val) says which benchmark it belongs to. A run named like a published method (`ctsr
    evaluate ... --name OSEDiff`) is compared with that method's published figures: the proof that the protocol is the
    same. Published figures of another protocol stand apart, with a warning. All runs on a benchmark share one table.

    Example:
        ctsr evaluate osediff_realsr/ --data configs/data/realsr.yaml --name OSEDiff --output runs/osediff
        ctsr evaluate realesrgan_realsr/ --data configs/data/realsr.yaml --name Real-ESRGAN --output runs/esrgan
        ctsr evaluate --checkpoint nano --control 0,1 --data configs/data/realsr.yaml --output runs/nano
        python -m recipes results runs/nano runs/esrgan runs/osediff --output docs/results.md

    Args:
        *runs: Folders of ctsr evaluate or ctsr sweep.
        output: The Markdown file.

    Returns:
        0.
    """
    if not runs:
        raise ValueError("Expected at least one folder that ctsr evaluate or ctsr sweep has left; found none.")
    published = read_published()
    records = [read_run(Path(run).expanduser()) for run in runs]
    known = published["benchmarks"]
    for run, record in zip(runs, records, strict=True):
        if record.get("benchmark") not in known:
            raise ValueError(
                f"'{run}' was measured on {record.get('benchmark') or record.get('source')}, which has no published "
                f"figures ({', '.join(known)} have). Measure it with --data configs/data/{next(iter(known))}.yaml."
            )
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        plot = Path(run).expanduser() / PLOT
        if plot.is_file():
            records[number]["plot"] = f"{path.stem}_{records[number]['benchmark']}_{number}.png"
            shutil.copyfile(plot, path.with_name(records[number]["plot"]))
    path.write_text(page(records, published), encoding="utf-8")
    print(f"→ {path}")
    return 0


def read_published() -> dict[str, Any]:
    """The published figures that come with the package."""
    import yaml

    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    published: dict[str, Any] = yaml.safe_load(text)
    return published


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a run.

    Args:
        folder: What `--output` named.

    Raises:
        FileNotFoundError: If it holds no record.
        ValueError: If the record cannot be read.
    """
    for name in SUMMARIES:
        if (folder / name).is_file():
            try:
                record: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"'{folder / name}' is damaged ({error}). Measure again.") from error
            return record
    raise FileNotFoundError(f"Expected {' or '.join(SUMMARIES)} in '{folder}', found neither. Run ctsr evaluate first.")


def page(records: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> str:
    """The page as Markdown.

    Args:
        records: The runs.
        published: What `read_published` gives.
    """
    protocols, sources = published["protocols"], published["sources"]
    protocol = (
        f"Protocol: {protocols['common']['title']}. {protocols['common']['text']} Networks stand in the "
        "metrics' names, hashes of their weights in each run's record. Empty cells were not measured, or not published."
    )
    lines = [
        "# Results",
        "",
        "*Generated by `python -m recipes results` from the records of `ctsr evaluate` and `ctsr sweep`; do not edit.*",
        "",
        protocol,
    ]
    for key, benchmark in published["benchmarks"].items():
        own = [record for record in records if record["benchmark"] == key]
        common, paper = benchmark["common"], benchmark["ctsr"]
        lines += ["", f"## {benchmark['title']}", "", "### Measured here", ""]
        lines += _measured(own, common["rows"]) if own else ["Not measured yet."]
        for record in own:
            lines += _curve(record)
        checks = [record for record in own if record["name"] in common["rows"] and _is_files(record)]
        if checks:
            lines += ["", "### The protocol is the same", "", *_check(checks, common)]
        lines += ["", "### Published, same protocol", "", *_table(_rows(common), common["columns"])]
        lines += ["", f"*Source: {sources['common']}.*"]
        shared = ", ".join(COLUMNS[name][0][:-2] for name in protocols["ctsr"]["shared"])
        lines += ["", "### Published, other protocol", ""]
        lines += [f"> **Warning.** {protocols['ctsr']['text']}", ""]
        lines += [*_table(_rows(paper), paper["columns"]), "", f"*Source: {sources['ctsr']}. Comparable: {shared}.*"]
    lines += ["", "## How the runs were made", ""]
    for record in records:
        versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        where = f"{record['benchmark']}, {record['images']} images, {record['settings']['device']}"
        lines.append(f"- **{record['name']}** on {where}: {versions}.")
    return "\n".join(lines) + "\n"


def _measured(records: Iterable[Mapping[str, Any]], published: Mapping[str, Any]) -> list[str]:
    """All methods of all runs in one table; what several runs have measured, such as bicubic enlargement, once."""
    rows: dict[str, dict[str, float | None]] = {}
    truth: dict[str, float | None] = {}
    for record in records:
        several = len(record["results"]) > 1
        name = f"{record['name']} (its published images)" if record["name"] in published else record["name"]
        for result in record["results"]:
            own = result.get("kind") in {None, *OWN}
            label = (f"{name}, {result['setting']}" if own else str(result["setting"])) if several else name
            row = {**{name: result.get(name) for name in COLUMNS}, "seconds": result.get("seconds")}
            first = rows.setdefault(label, row)
            first |= {key: value for key, value in row.items() if first[key] is None}
        truth |= {metric: check["gt"] for metric, check in record.get("lattice", {}).items()}
    if truth:
        rows[GROUND_TRUTH] = {**dict.fromkeys([*COLUMNS, "seconds"]), **truth}
    names = [name for name in COLUMNS if any(row[name] is not None for row in rows.values())]
    return _table(rows, names, seconds=any(row["seconds"] is not None for row in rows.values()))


def _is_files(record: Mapping[str, Any]) -> bool:
    """Whether finished files were measured."""
    return record["results"][0].get("kind", "restored") == "restored"


def _curve(record: Mapping[str, Any]) -> list[str]:
    """The plot of a sweep, what its curves amount to, and whether patterns show."""
    frontier = record.get("frontier") or {}
    verdicts = [*frontier.get("monotone", {}).values(), frontier.get("blend")]
    verdicts += [record.get("grid_energy"), *record.get("lattice", {}).values()]
    sentences = [f"- {record['name']}: {verdict['sentence']}" for verdict in verdicts if verdict]
    plot = ["", f"![{record['name']} on {record['benchmark']}]({record['plot']})"] if "plot" in record else []
    return [*plot, *([""] if sentences else []), *sentences]


def _check(records: Iterable[Mapping[str, Any]], common: Mapping[str, Any]) -> list[str]:
    """Our figures for published images beside the figures that were published for them."""
    lines = ["| published images of | metric | published | measured here | difference |", "|---|---|---|---|---|"]
    for record in records:
        figures = dict(zip(common["columns"], common["rows"][record["name"]], strict=True))
        result = record["results"][0]
        for name, figure in figures.items():
            if figure is not None and result.get(name) is not None:
                head, measured = COLUMNS[name][0], result[name]
                lines.append(f"| {record['name']} | {head} | {figure:g} | {measured:.4f} | {measured - figure:+.4f} |")
    return lines


def _rows(table: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {label: dict(zip(table["columns"], row, strict=True)) for label, row in table["rows"].items()}


def _table(rows: Mapping[str, Mapping[str, float | None]], names: Sequence[str], *, seconds: bool = False) -> list[str]:
    head = ["", *(COLUMNS[name][0] for name in names)] + ["s / image"] * seconds
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for label, row in rows.items():
        cells = [_cell(row.get(name), COLUMNS[name][1]) for name in names]
        lines.append(f"| {' | '.join([label, *cells] + [_cell(row.get('seconds'), 3)] * seconds)} |")
    return lines


def _cell(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
