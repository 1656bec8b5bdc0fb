"""Two processes of half the batch train like one process."""

import json

import pytest

from helpers.processes import several_processes
from helpers.two_processes import STEPS, train


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_train_like_one(tmp_path):
    several_processes(train, tmp_path)
    expected = train(0, 1)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, one in expected.items():
            two = found[name]
            assert two["skipped"] == one["skipped"] == (name == "poisoned")
            assert two["steps"] == one["steps"] == len(one["losses"]) == STEPS
            for mine, theirs in zip(two["losses"], one["losses"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5), (name, rank)
            assert two["weights"] == pytest.approx(one["weights"], rel=1e-7, abs=1e-7), (name, rank)
