"""A frozen network belongs to nobody."""

import copy
import pickle

import torch
from torch import nn

from ctsr_lightning.networks import Frozen


def owner():
    built = nn.Module()
    built.own = nn.Linear(2, 2)
    built.frozen = Frozen(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    return built


def test_owner_has_neither_its_parameters_nor_its_state():
    names = {"own.weight", "own.bias"}
    assert {name for name, _ in owner().named_parameters()} == names
    assert owner().state_dict().keys() == names
    assert len(list(owner().modules())) == 3


def test_its_gradients_are_off_but_flow_through_it():
    network = owner().frozen.network
    assert not any(p.requires_grad for p in network.parameters())
    x = torch.randn(1, 2, requires_grad=True)
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_it_stays_in_evaluation_mode():
    built = owner().train()
    assert not built.frozen.network.training
    x = torch.ones(1, 2)
    assert torch.equal(built.frozen(x), built.frozen(x))


def test_it_follows_precision_and_device():
    built = owner().to(torch.float64)
    assert built.frozen.network[0].weight.dtype == torch.float64
    assert built.to("meta").frozen.network[0].weight.device.type == "meta"


def test_copies_share_it():
    built = owner()
    copied = copy.deepcopy(built)
    assert copied.frozen.network is built.frozen.network
    assert copied.own.weight is not built.own.weight


def test_it_can_be_pickled_for_spawned_processes():
    built = owner()
    again = pickle.loads(pickle.dumps(built))
    assert torch.equal(again.frozen.network[0].weight, built.frozen.network[0].weight)
