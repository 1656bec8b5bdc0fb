"""A shortened demo, once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A fifth of a demo on a fifth of its crops, measured on smaller crops; as its command line.

    No LPIPS weights are on disk.
    """
    output = tmp_path_factory.mktemp("demo") / "run"
    words = ["demo", "--output", str(output), "--configs", str(ROOT / "configs" / "nano"), "--steps", "0.2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(output.parent))
        patch.setenv("CTSR_RUNS", str(output))
        patch.setattr("recipes.demo.POOL", 80)
        patch.setattr("recipes.demo.LARGEST", 192)
        patch.setattr("recipes.demo.CROP", 160)
        main([*words, "--device", "cpu"])
    return words
