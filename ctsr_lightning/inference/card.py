"""Model card and licence beside saved weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ctsr_lightning import __version__
from ctsr_lightning.models import RestorationModel

CARD: Final = "README.md"
"""Name of a model card, where the hub looks for it."""
DATA: Final = "card.json"
"""The same as data, beside the card of a packed chain of trainings."""
LICENCE: Final = "LICENSE"
"""Name of the licence's text."""
CONTROLS: Final = {
    "none": "t = 0 alone",
    "number": "t from 0 (realness) to 1 (fidelity), one number per image",
    "map": "t from 0 (realness) to 1 (fidelity), a number or a map of pixels",
}


def write_card(
    folder: Path, source: Path, model: RestorationModel, configuration: Mapping[str, Any], use: Sequence[str]
) -> None:
    """Write card and licence of a model into its folder.

    A model out of a packed chain, such as nano, takes that card's sections along: data, trainings, figures, limits.

    Args:
        folder: The folder.
        source: The file that the model was read from.
        model: The model.
        configuration: Plain values of its training.
        use: Lines of code, in Markdown, that read it.
    """
    bases = sorted(set(_bases({key: configuration.get(key) for key in ("student", "velocity")})))
    sections = _chain_sections(source)
    training = str(configuration.get("_class_path", "")).rpartition(".")[2]
    lines = [
        "---",
        f"license: {'other' if bases else 'apache-2.0'}",
        "library_name: ctsr-lightning",
        "pipeline_tag: image-to-image",
        "tags: [super-resolution, image-restoration, ctsr]",
        "---",
        "",
        f"# {model.method}, enlargement by {model.scale}",
        "",
        f"A model for [ctsr-lightning](https://github.com/ctsr-lightning/ctsr-lightning) {__version__}.",
        "Trainings, figures and limits below are those of the chain that it is part of."
        if sections
        else "Data, figures and limits of its training are to be added by hand.",
        "",
        "| | |",
        "|---|---|",
        f"| class | {type(model).__name__}, trained by {training or 'an unknown training'} |",
        f"| enlargement | {model.scale} |",
        f"| control | {CONTROLS[model.control_kind]} |",
        f"| parameters | {sum(p.numel() for p in model.parameters()):,} |",
        f"| built on | {', '.join(f'`{base}`' for base in bases) or 'nothing else'} |",
        "",
        "## Use",
        "",
        *use,
        "",
        *sections,
        "## Licence",
        "",
        _licence(bases),
        "",
    ]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")
    notice = f"{_licence(bases)}\n\n" if bases else ""
    (folder / LICENCE).write_text(notice + package_licence().read_text(encoding="utf-8"), encoding="utf-8")


def _chain_sections(source: Path) -> list[str]:
    """Lines of the card of the packed chain that a file belongs to, without title, use and licence; or none."""
    chain = source.resolve().parents[1]
    if not ((chain / DATA).is_file() and (chain / CARD).is_file()):
        return []
    lines, kept = list[str](), False
    for line in (chain / CARD).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            kept = line not in {"## Use", "## Licence"}
        lines += [line] * kept
    return [*lines, ""] if lines and lines[-1] else lines


def package_licence() -> Path:
    """The licence of this package: inside an installed one, beside it in a checkout of the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / LICENCE
    return inside if inside.is_file() else package.parent / LICENCE


def _licence(bases: Sequence[str]) -> str:
    if not bases:
        return "Apache-2.0, as the software that trained it; the training's data may set terms of its own."
    named = ", ".join(f"'{base}'" for base in bases)
    return (
        f"These weights derive from {named} and are under its licence first; Stable Diffusion's is CreativeML Open "
        "RAIL++-M (2.x) or RAIL-M (1.x). What this software adds is under Apache-2.0, below."
    )


def _bases(value: Any) -> Iterator[str]:
    """Names of the published models that a configuration builds on."""
    if isinstance(value, Mapping):
        arguments = value.get("init_args")
        if str(value.get("class_path", "")).endswith(("load_unet", "load_autoencoder")) and arguments:
            yield str(arguments.get("path"))
        for item in value.values():
            yield from _bases(item)
    elif isinstance(value, list):
        for item in value:
            yield from _bases(item)
