"""The reader beneath every loader: formats, wrappers, and files that are not what they should be."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctsr_lightning.weights.reading import differences, load_strictly, named_tensors, read_file

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}


def read(path, **options):
    return named_tensors(read_file(path, "weights", **options), "weights", path)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "step": 3}, lambda s: {"params": s}])
def test_every_form_of_file_gives_the_same_tensors(tmp_path, mapped, old, wrap):
    path = tmp_path / "weights.pth"
    torch.save(
        wrap({f"module._orig_mod.{k}": v for k, v in STATE.items()}), path, _use_new_zipfile_serialization=not old
    )
    found = read(path, mapped=mapped)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], v) for k, v in STATE.items())


def test_safetensors_are_told_by_their_suffix(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    assert torch.equal(read(tmp_path / "weights.safetensors")["b"], STATE["b"])


def test_code_is_not_executed_and_its_remedy_not_offered(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    torch.save({"a": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="nothing in it was executed: it holds more than tensors") as error:
        read(tmp_path / "weights.pth")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"Expected weights at '.*weights{suffix}', but it cannot be read safely"):
        read(path)


def test_a_file_that_is_not_there(tmp_path):
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / f"nowhere{suffix}")


@pytest.mark.parametrize("contents", [[1, 2], {}, {"a": 1}, {"state_dict": {"a": "text"}}])
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path, contents):
    torch.save(contents, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="a dictionary of tensors, found something else"):
        read(tmp_path / "weights.pth")


def test_differences_are_missing_unexpected_and_of_another_shape():
    shapes = {"a.weight": (2, 3), "b": (1,)}
    assert differences(STATE, shapes) == []
    assert differences({"a.weight": torch.ones(3, 2), "c": torch.ones(1)}, shapes) == [
        "missing b",
        "unexpected c",
        "a.weight is (3, 2) in the file, (2, 3) in the network",
    ]


def test_strict_loading_widens_half_precision():
    network = nn.Linear(2, 1)
    load_strictly(network, {"weight": torch.full((1, 2), 0.5).half(), "bias": torch.ones(1)}, "w.pth")
    assert network.weight.dtype == torch.float32
    assert network.weight.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"weight": torch.ones(1, 2)}, "missing bias"),
        ({"weight": torch.ones(1, 2), "bias": torch.ones(1), "c": torch.ones(1)}, "unexpected c"),
        (
            {"weight": torch.ones(1, 3), "bias": torch.ones(1)},
            r"weight is \(1, 3\) in the file, \(1, 2\) in the network",
        ),
    ],
)
def test_strict_loading_says_what_differs_and_changes_nothing(state, found, assign):
    network = nn.Linear(2, 1)
    before = network.weight.detach().clone()
    with pytest.raises(
        ValueError, match=rf"^Expected the weights of Linear in 'w\.pth', found others: {found}\. Get X"
    ):
        load_strictly(network, state, "w.pth", remedy="Get X.", assign=assign)
    assert torch.equal(network.weight, before)


def test_many_differences_are_counted():
    with pytest.raises(ValueError, match=r"unexpected 2; and 6 more\. Name"):
        load_strictly(nn.Linear(2, 1), {str(i): torch.ones(1) for i in range(9)}, "w.pth")


def test_strict_loading_under_other_names():
    network, state = nn.Linear(2, 1), {"w": torch.ones(1, 2)}
    bias = network.bias.item()
    load_strictly(network, state, "w.pth", names={"weight": "w"})
    assert (network.weight.tolist(), network.bias.item()) == ([[1.0, 1.0]], bias)
    with pytest.raises(ValueError, match="missing b"):
        load_strictly(network, state, "w.pth", names={"weight": "w", "bias": "b"})
    with pytest.raises(ValueError, match="unexpected w"):
        load_strictly(network, state, "w.pth", names={})


def test_files_from_before_batches_were_counted_are_loaded():
    network = nn.BatchNorm1d(2)
    state = {k: v + 1 for k, v in network.state_dict().items() if k != "num_batches_tracked"}
    load_strictly(network, state, "w.pth")
    assert network.weight.tolist() == [2.0, 2.0]
    del state["running_var"]
    with pytest.raises(ValueError, match=r"others: missing running_var\. "):
        load_strictly(network, state, "w.pth")


def test_assigned_tensors_keep_their_precision():
    with torch.device("meta"):
        network = nn.Linear(2, 1)
    load_strictly(network, {"weight": torch.ones(1, 2).half(), "bias": torch.ones(1)}, "w.pth", assign=True)
    assert (network.weight.dtype, network.bias.item()) == (torch.float16, 1.0)
