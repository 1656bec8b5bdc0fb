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
    "test_configs.py",
    "test_configs_full_size.py",
    "several processes",
    "recipes/test_nano.py",
    "test_cli.py",
    "test_cli_distributed.py",
    "recipes/test_claims_run.py",
    "commands/test_cache.py",
)
"""Files, or groups that xdist is told, that would keep one worker busy while the other has nothing left."""
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # processes side by side, whose threads would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of recipes; keep each file's tests on one worker, the longest files first."""
    groups = {}
    for item in items:
        if "recipes" in item.path.parts:
            item.add_marker("recipes")
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(ROOT).as_posix()))
        groups.setdefault(item.get_closest_marker("xdist_group").args[0], []).append(item)
    if WORKER:
        order = [*(name for name in LONGEST if name in groups), *(name for name in groups if name not in LONGEST)]
        items[:] = [item for name in order for item in groups[name]]


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
