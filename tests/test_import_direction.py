"""The package imports in one direction, keeps Lightning and peft where they belong, and its files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctsr_lightning

ROOT = Path(ctsr_lightning.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

BASE = {"batch", "control", "files", "images", "spectrum", "tables"}
NETWORKS = BASE | {"diffusion", "weights", "prompts", "codecs", "networks"}
MODELS = NETWORKS | {"models"}
RESTORING = MODELS | {"teachers", "inference"}
MEASURING = RESTORING | {
    "configs",
    "degradation",
    "data",
    "figures",
    "frontier",
    "metrics",
    "progress",
    "share",
    "evaluation",
}
ALLOWED = {
    "batch": set(),
    "configs": set(),
    "control": set(),
    "files": set(),
    "figures": {"frontier", "figures"},
    "frontier": {"frontier"},
    "images": {"files", "images"},
    "progress": set(),
    "share": set(),
    "spectrum": set(),
    "tables": set(),
    "diffusion": BASE | {"diffusion"},
    "weights": {"files", "weights"},
    "prompts": BASE | {"weights", "prompts"},
    "codecs": BASE | {"diffusion", "weights", "codecs"},
    "networks": NETWORKS,
    "models": MODELS,
    "teachers": MODELS | {"teachers"},
    "losses": NETWORKS | {"metrics", "losses"},
    "degradation": BASE | {"degradation"},
    "data": BASE | {"degradation", "data"},
    "metrics": NETWORKS | {"metrics"},
    "inference": RESTORING,
    "exporting": RESTORING | {"exporting"},
    "cache": RESTORING | {"progress", "cache"},
    "evaluation": MEASURING,
    "callbacks": MEASURING | {"callbacks"},
    "modules": MODELS | {"teachers", "losses", "metrics", "cache", "modules"},
    "training": {
        "configs",
        "cache",
        "callbacks",
        "codecs",
        "data",
        "degradation",
        "metrics",
        "modules",
        "networks",
        "prompts",
        "teachers",
        "weights",
    },
    "serve": RESTORING | {"figures", "serve"},
    "commands": MEASURING | {"exporting", "serve", "cache", "callbacks", "progress", "training", "commands"},
    "cli": {"training", "commands"},
}
"""What each part of the package may import of the others; the root, for the version, is open to all."""


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path: Path, package: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for module in imported(path))


def test_direction() -> None:
    against = {}
    for path in (f for f in FILES if f != ROOT / "__init__.py"):
        parts = {m.split(".")[1] for m in imported(path) if m.startswith("ctsr_lightning.")}
        against[name(path)] = parts - {"__version__"} - ALLOWED[part(path)]
    assert not {file: parts for file, parts in against.items() if parts}


def test_no_circle_among_files() -> None:
    names = {"ctsr_lightning." + ".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in FILES}
    faces = {m.removesuffix(".__init__"): m for m in names if m.endswith(".__init__")}  # a package's own exports
    uses = {m: {u for u in imported(f) if u in names and u != m} for m, f in names.items() if m not in faces.values()}
    while free := [m for m, used in uses.items() if not used & uses.keys()]:
        for m in free:
            del uses[m]
    assert not uses, f"circles among {sorted(uses)}"


def test_every_part_has_a_rule() -> None:
    assert {part(path) for path in FILES} == {*ALLOWED, "__init__"}


def test_lightning_stays_outside_the_mathematics() -> None:
    users = {name(f) for f in FILES if imports(f, "lightning") or imports(f, "pytorch_lightning")}
    assert {u for u in users if u.split("/")[0] not in {"modules", "callbacks"}} == {
        "data/datamodule.py",
        "training.py",
    }


@pytest.mark.parametrize(("package", "home"), [("peft", "networks/lora.py")])
def test_packages_with_one_home(package: str, home: str) -> None:
    assert [name(f) for f in FILES if imports(f, package)] == [home]


@pytest.mark.processes
def test_importing_the_package_is_cheap() -> None:
    code = "import sys, ctsr_lightning; assert not sys.modules.keys() & {'torch', 'numpy', 'lightning'}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_stay_short() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {file: length for file, length in lengths.items() if length > 350}
    rooms = Counter(dict.fromkeys(ALLOWED, 0))
    for file, length in lengths.items():
        rooms[file.split("/")[0]] += length
    assert not {room: length for room, length in rooms.items() if length > 2500}
    assert not [name(path) for path in FILES if path.stem in {"utils", "helpers", "misc", "common"}]
