"""`python -m recipes results`: a page with our figures beside the published ones."""

# Annotations are not postponed here: the parser needs them as types.
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ctsr_lightning.evaluation.labels import GROUND_TRUTH
from ctsr_lightning.tables import markdown_table

SUMMARIES = ("summary.json", "tradeoff.json")
"""Records of `ctsr evaluate` and `ctsr sweep`, in this order of preference."""

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
    published = read_published_figures()
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
    path.write_text(results_page(records, published), encoding="utf-8")
    print(f"→ {path}")
    return 0


def read_published_figures() -> dict[str, Any]:
    """The published figures, with their sources."""
    import yaml

    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    published: dict[str, Any] = yaml.safe_load(text)
    return published


def read_run(folder: Path) -> dict[str, Any]:
    """The record in a run's folder.

    Raises:
        FileNotFoundError: If it holds no record.
        ValueError: If the record cannot be read.
    """
    for path in (folder / name for name in SUMMARIES):
        if path.is_file():
            try:
                record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"'{path}' is damaged ({error}). Measure again.") from error
            return record
    raise FileNotFoundError(f"Expected {' or '.join(SUMMARIES)} in '{folder}', found neither. Run ctsr evaluate first.")


def results_page(records: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> str:
    """The page as Markdown, from the records of the runs and the published figures."""
    protocols, sources = published["protocols"], published["sources"]
    shared = ", ".join(COLUMNS[name][0][:-2] for name in protocols["ctsr"]["shared"])
    protocol = (
        f"Protocol: {protocols['common']['title']}. {protocols['common']['text']} Networks stand in the "
        "metrics' names, hashes of their weights in each run's record. Empty cells were not measured, or not published."
    )
    parts = [
        "# Results",
        "*Generated by `python -m recipes results` from the records of `ctsr evaluate` and `ctsr sweep`; do not edit.*",
        protocol,
    ]
    for key, benchmark in published["benchmarks"].items():
        own = [record for record in records if record["benchmark"] == key]
        common, paper = benchmark["common"], benchmark["ctsr"]
        checks = _compare_with_published(own, common)
        parts += [
            f"## {benchmark['title']}",
            "### Measured here",
            _measured_table(own, common["rows"]) if own else "Not measured yet.",
            *(part for record in own for part in _curve(record)),
            *(["### The protocol is the same", checks] if checks else []),
            "### Published, same protocol",
            _table(_published_table(common)),
            f"*Source: {sources['common']}.*",
            "### Published, other protocol",
            f"> **Warning.** {protocols['ctsr']['text']}",
            _table(_published_table(paper)),
            f"*Source: {sources['ctsr']}. Comparable: {shared}.*",
        ]
    parts += ["## How the runs were made", "\n".join(_making(record) for record in records)]
    return "\n\n".join(parts) + "\n"


def _measured_table(records: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> str:
    """All methods of all runs in one table; what several runs have measured, such as bicubic enlargement, once."""
    rows: list[dict[str, Any]] = []
    for record in records:
        several = len(record["results"]) > 1
        name = f"{record['name']} (its published images)" if record["name"] in published else record["name"]
        for result in record["results"]:
            own = result.get("kind") in {None, *OWN}
            label = (f"{name}, {result['setting']}" if own else str(result["setting"])) if several else name
            rows.append({"method": label, **{column: result.get(column) for column in COLUMNS}})
    truth = {metric: check["gt"] for record in records for metric, check in record.get("lattice", {}).items()}
    if truth:
        rows.append({"method": GROUND_TRUTH, **truth})
    table = pd.DataFrame(rows).groupby("method", sort=False).first().astype(float)
    return _table(table.dropna(axis="columns", how="all"))


def _curve(record: Mapping[str, Any]) -> list[str]:
    """The plot of a sweep, and the sentences on its curves and on patterns."""
    frontier = record.get("frontier") or {}
    verdicts = [verdict for own in frontier.get("monotone", {}).values() for verdict in own.values()]
    verdicts += [*frontier.get("compared", []), record.get("grid_energy"), *record.get("lattice", {}).values()]
    plot = f"![{record['name']} on {record['benchmark']}]({record['plot']})" if "plot" in record else ""
    sentences = "\n".join(f"- {record['name']}: {verdict['sentence']}" for verdict in verdicts if verdict)
    return [part for part in (plot, sentences) if part]


def _compare_with_published(records: Iterable[Mapping[str, Any]], common: Mapping[str, Any]) -> str:
    """Figures measured on published images beside the figures that were published for them; empty without any."""
    rows, published = [], _published_table(common)
    for record in records:
        result = record["results"][0]
        if record["name"] not in published.index or result.get("kind", "restored") != "restored":
            continue
        for name, figure in published.loc[record["name"]].dropna().items():
            if (measured := result.get(name)) is not None:
                cells = [f"{figure:g}", f"{measured:.4f}", f"{measured - figure:+.4f}"]
                rows.append([record["name"], COLUMNS[name][0], *cells])
    head = ["published images of", "metric", "published", "measured here", "difference"]
    return markdown_table(head, rows) if rows else ""


def _making(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    where = f"{record['benchmark']}, {record['images']} images, {record['settings']['device']}"
    return f"- **{record['name']}** on {where}: {versions}."


def _published_table(table: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(table["rows"], orient="index", columns=table["columns"]).astype(float)


def _table(table: pd.DataFrame) -> str:
    """Methods by metrics as Markdown; empty cells where there is no value."""
    head = ["", *(COLUMNS[name][0] for name in table.columns)]
    digits = [COLUMNS[name][1] for name in table.columns]
    rows = (
        [label, *("" if pd.isna(value) else f"{value:.{d}f}" for value, d in zip(row, digits, strict=True))]
        for label, *row in table.itertuples()
    )
    return markdown_table(head, rows)
