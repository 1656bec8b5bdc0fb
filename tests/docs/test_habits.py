"""Workflows, forms, citation, hooks and requirements are well formed and agree with pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> Any:
    """The contents of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_jobs_of_steps_and_the_least_permissions(path: Path) -> None:
    workflow = read(path)
    assert workflow[True]  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        assert all("@" in step["uses"] for step in job["steps"] if "uses" in step)


def test_the_matrix_is_the_range_of_pythons_that_the_package_names() -> None:
    named = [
        text.rsplit(" ", 1)[1]
        for text in PROJECT["classifiers"]
        if text.startswith("Programming Language :: Python :: 3.")
    ]
    pythons = sorted(named, key=Version)
    quick = read(ROOT / ".github" / "workflows" / "quick.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert quick["python"] == [pythons[0], pythons[-1]]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert {system.split("-")[0] for system in quick["os"]} == {"ubuntu", "macos"}


def test_the_documentation_workflow_installs_the_docs_extra() -> None:
    steps = read(ROOT / ".github" / "workflows" / "docs.yml")["jobs"]["build"]["steps"]
    install = next(step["run"] for step in steps if "pip install" in step.get("run", ""))
    assert all(f"'{requirement}'" in install for requirement in PROJECT["optional-dependencies"]["docs"])


def test_issue_forms_ask_something() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "question"}
    for path in forms:
        form = read(path)
        assert {"name", "description", "body"} <= form.keys()
        assert all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Li", "Chen", "Zhang", "Timofte"]


def test_hooks_run_ruff_and_mypy() -> None:
    hooks = [
        hook["id"] for repository in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    ]
    assert hooks == ["ruff-check", "ruff-format", "mypy"]


def test_lowest_requirements_are_the_lower_bounds() -> None:
    lines = (ROOT / "requirements" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(
        line.split(" ")[0].split("==") for line in lines if "==" in line and not line.lstrip().startswith("#")
    )
    direct = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["demo"])]
    bounds = {r.name.lower(): next(s.version for s in r.specifier if s.operator == ">=") for r in direct}
    found = {name: pinned[name] for name in bounds}
    unlike = {
        name: (bounds[name], version) for name, version in found.items() if Version(bounds[name]) != Version(version)
    }
    assert unlike == {}
