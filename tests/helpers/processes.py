"""Several processes of a training, as torchrun would start them."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

FORKED = [
    f"helpers.{name}"
    for name in ("distributed_runs", "evaluation_runs", "quality_runs", "resumed_runs", "shared_bases", "two_processes")
]
"""What one clean interpreter imports, once for all tests of a worker; each process is a fork of it."""


def several_processes(train: Callable[..., Any], folder: Path, *args: Any, count: int = 2) -> None:
    """Call `train(rank, count, *args)` in each; rank r leaves its results in `r.json`.

    Args:
        train: A function of one of `FORKED`.
        folder: Where the results go.
        args: Further arguments.
        count: Number of processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        set_forkserver_preload(FORKED)
        processes = multiprocessing.start_processes(
            _process,
            (port, count, train, folder, dict(os.environ), args),
            nprocs=count,
            join=False,
            start_method="forkserver",
        )
    for _ in range(count):  # each call waits for one process to end
        if processes.join(timeout=300):
            break
    running = [child for child in processes.processes if child.is_alive()]
    for child in running:
        child.kill()
    assert not running, "the processes wait for each other"


def _process(
    rank: int,
    port: int,
    count: int,
    train: Callable[..., Any],
    folder: Path,
    environment: dict[str, str],
    args: tuple[Any, ...],
) -> None:
    """Run one process in the environment of the test: its own is that in which the worker's interpreter was started."""
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
    )
    (folder / f"{rank}.json").write_text(json.dumps(train(rank, count, *args)))
