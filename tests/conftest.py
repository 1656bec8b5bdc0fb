"""Every test starts from the same random numbers and leaves the process as it found it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side, whose threads would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


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
