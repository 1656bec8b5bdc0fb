"""Two processes of half the batch train like one process."""

import json
import os
import socket
import sys
from multiprocessing import set_forkserver_preload

import pytest
from torch import multiprocessing
from two_processes import STEPS, process, train


def test_two_processes_train_like_one(tmp_path, monkeypatch):
    # One clean interpreter imports everything and then forks twice.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    set_forkserver_preload(["two_processes"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = multiprocessing.start_processes(
        process, (port, tmp_path), nprocs=2, join=False, start_method="forkserver"
    )
    expected = train(0, 1)
    for _ in range(2):  # each call waits for one process to end
        if processes.join(timeout=100):
            break
    running = [child for child in processes.processes if child.is_alive()]
    for child in running:
        child.kill()
    assert not running, "the processes wait for each other"

    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, one in expected.items():
            two = found[name]
            assert two["steps"] == one["steps"] == len(one["losses"]) == STEPS
            for mine, theirs in zip(two["losses"], one["losses"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5), (name, rank)
            assert two["weights"] == pytest.approx(one["weights"], rel=1e-7, abs=1e-7), (name, rank)
