"""The batch is a named tuple that Lightning moves as a whole."""

import torch
from lightning.fabric.utilities import move_data_to_device

from ctsr_lightning.batch import Batch


def test_batch_moves_and_keeps_its_kind():
    batch = Batch(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 16, 16), ["a", "b"])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.lq.device.type == moved.gt.device.type == "meta"
    assert moved.key == ["a", "b"]


def test_batch_without_truth_moves():
    moved = move_data_to_device(Batch(torch.rand(1, 3, 4, 4), None, ["a"]), torch.device("meta"))
    assert moved.gt is None
    assert moved.lq.device.type == "meta"
