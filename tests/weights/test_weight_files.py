"""Reading weights: what fits, what does not, and what is said then."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctsr_lightning.weights.reading import load_weights, read_state
from ctsr_lightning.weights.search import MissingWeightsError, find_weights, weight_search_path


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def saved(path, state, prefix="net."):
    save_file({prefix + k: v.contiguous() for k, v in state.items()}, path)
    return path


def test_prefix_selects_the_network(network, tmp_path):
    state = {f"net.{k}": torch.full_like(v, 2.0) for k, v in network.state_dict().items()}
    save_file({**state, "other.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors", "net.")
    assert all((v == 2.0).all() for v in network.state_dict().values())


def test_error_names_what_is_missing_unexpected_and_misshapen(network, tmp_path):
    state = dict(network.state_dict())
    state["0.weight"] = torch.zeros(5, 2)
    state["extra"] = state.pop("1.bias")
    with pytest.raises(
        ValueError, match=r"Expected the weights of Sequential, names below 'net\.', in .* found others"
    ) as error:
        load_weights(network, saved(tmp_path / "w.safetensors", state), "net.")
    message = str(error.value)
    assert "missing 1.bias" in message
    assert "unexpected extra" in message
    assert "0.weight is (5, 2) in the file, (3, 2) in the network" in message
    assert "w.safetensors" in message


def test_error_shows_five_differences_and_counts_the_rest(network, tmp_path):
    state = {f"stray{i}": torch.zeros(1) for i in range(4)}
    with pytest.raises(ValueError, match="and 3 more"):
        load_weights(network, saved(tmp_path / "w.safetensors", state), "net.")


def test_failed_load_changes_nothing(network, tmp_path):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = {k: v + 1 for k, v in before.items() if k != "1.bias"}
    with pytest.raises(ValueError, match=r"missing 1\.bias"):
        load_weights(network, saved(tmp_path / "w.safetensors", state), "net.")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_trainable_weights_fill_a_frozen_base(network, tmp_path):
    network[0].requires_grad_(False)
    state = {k: torch.ones_like(v) for k, v in network.state_dict().items() if k.startswith("1.")}
    path = saved(tmp_path / "w.safetensors", state)
    with pytest.raises(ValueError, match=r"missing 0\.weight"):
        load_weights(network, path, "net.")
    load_weights(network, path, "net.", only_trainable=True)
    assert (network[1].weight == 1.0).all()


def test_frozen_weights_in_a_trimmed_file_are_unexpected(network, tmp_path):
    network[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"unexpected 0\.weight"):
        load_weights(network, saved(tmp_path / "w.safetensors", network.state_dict()), "net.", only_trainable=True)


def test_checkpoint_answers_with_its_averages(tmp_path):
    averages = {"callbacks": {"EMA{'decay': 0.9}": {"averages": {"a": torch.ones(1)}}}}
    torch.save({"state_dict": {"a": torch.zeros(1), "b": torch.zeros(1)}, **averages}, tmp_path / "c.ckpt")
    assert {k: v.item() for k, v in read_state(tmp_path / "c.ckpt").items()} == {"a": 1.0, "b": 0.0}


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors.*found nothing"):
        find_weights(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        find_weights(tmp_path)


def test_relative_paths_are_searched_below_the_given_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "w.ckpt").touch()
    with pytest.raises(FileNotFoundError):
        find_weights("w.ckpt")
    with weight_search_path(tmp_path / "runs"):
        assert find_weights("w.ckpt") == tmp_path / "runs" / "w.ckpt"
    with pytest.raises(FileNotFoundError):
        find_weights("w.ckpt")
    (tmp_path / "w.ckpt").touch()
    assert find_weights("w.ckpt").resolve() == tmp_path / "w.ckpt"
    with weight_search_path(tmp_path / "runs"):
        assert find_weights("w.ckpt") == tmp_path / "runs" / "w.ckpt"


def test_every_folder_searched_is_named(tmp_path, monkeypatch):
    for name in ("a", "b", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    outer, inner = weight_search_path(tmp_path / "b"), weight_search_path(tmp_path / "a", tmp_path / "b")
    with outer, inner, pytest.raises(MissingWeightsError) as error:
        find_weights("runs/w.ckpt")
    places = ", ".join(f"'{tmp_path / name}'" for name in ("a", "b", "here"))
    assert f"at 'runs/w.ckpt' in {places}, found nothing. Run the training" in str(error.value)


@pytest.mark.parametrize("name", ["bad.safetensors", "bad.ckpt"])
def test_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=name):
        read_state(tmp_path / name)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": {}, "trap": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_state(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_file_without_state_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match="without a 'state_dict'"):
        read_state(tmp_path / "c.ckpt")
