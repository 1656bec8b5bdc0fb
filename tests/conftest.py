"""Every test starts from the same random numbers and leaves the process as it found it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.reference import SHARED

ROOT = Path(__file__).parent
LONGEST = (
    "recipes/test_demo.py",
    "test_configs_full_size.py",
    "test_configs.py",
    "test_cli_distributed.py",
    "recipes/test_nano.py",
    "recipes/test_claims_run.py",
    "test_cli.py",
    "commands/test_cache.py",
    "callbacks/test_distributed.py",
)
"""Files that would keep one worker busy while the other has nothing left."""
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # processes side by side, whose threads would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of recipes; of several workers, which take whole files, the longest files come first."""
    for item in items:
        if "recipes" in item.path.parts:
            item.add_marker("recipes")
    if WORKER:
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.relative_to(ROOT).as_posix(), len(places)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs `../shared` where that is not."""
    if item.get_closest_marker("reference") and not SHARED.is_dir():
        pytest.skip(f"needs '{SHARED}'")


@pytest.fixture(autouse=True)
def _same_start_and_no_traces() -> Iterator[None]:
    seed = os.environ.pop("PL_GLOBAL_SEED", None)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # libraries under test draw from the global state
    torch.manual_seed(0)
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    left = {"dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled()}
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(deterministic)
    os.environ.pop("PL_GLOBAL_SEED", None)
    if seed is not None:
        os.environ["PL_GLOBAL_SEED"] = seed
    assert left == {"dtype": torch.float32, "gradients": True}, f"the test left global state behind: {left}"
