"""The notebooks run as they are, and are committed without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ctsr_lightning.weights.shipped import shipped_folder

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PRINTED = {
    "quickstart": "t = 0.5 (3, 192, 192)",
    "teachers": "| blend α=0.50 | T_f/T_r blend |",
    "maps": "left 0.0000, right 0.",
    "degradations": "OrderPlan(",
    "weights": "its codec is a NanoCodec",
}
"""What each prints; tradeoff.ipynb shows a demo, and is tested with it."""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(not (shipped_folder() / "stage2").is_dir(), reason="a copy without the shipped weights")
@pytest.mark.parametrize("name", PRINTED)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert PRINTED[name] in "".join(output.get("text", "") for output in outputs)
    assert name == "weights" or any("image/png" in output.get("data", {}) for output in outputs)


def test_they_are_short_and_without_outputs() -> None:
    files = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert {file.stem for file in files} == {*PRINTED, "tradeoff"}
    for file in files:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert sum(len("".join(cell["source"]).splitlines()) for cell in cells) <= 80, file.name
        assert cells[0]["source"][0].startswith("#")
