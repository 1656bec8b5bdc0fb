"""Several networks over one copy of the base's weights: who has what, and what none can do to another."""

import copy
import gc
import os
import pickle
import weakref
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.models.student import load_student_weights
from ctsr_lightning.modules import CodecTraining, OneStepTraining
from ctsr_lightning.networks import (
    Frozen,
    LoRA,
    VelocityField,
    load_autoencoder,
    load_unet,
    stable_diffusion,
)
from ctsr_lightning.networks.lora import without_adapters
from ctsr_lightning.networks.sharing import shared_weights
from helpers import shared_bases, tiny
from helpers.ldm_layout import toy_networks, whole_model, write_model

LOADERS = {"unet": load_unet, "autoencoder": load_autoencoder}
INPUTS = (torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 2, 6))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), toy_networks())


@pytest.fixture
def reads(monkeypatch) -> Iterator[list]:
    """The files whose weights are read."""
    seen, read = [], stable_diffusion.read_tensors
    monkeypatch.setattr(stable_diffusion, "read_tensors", lambda path: seen.append(path) or read(path))
    return seen


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks of the same names have the same Parameter objects throughout."""
    mine, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    assert mine.keys() == theirs.keys()
    shared = {mine[name] is theirs[name] for name in mine}
    assert len(shared) == 1
    return shared.pop()


def ask(unet):
    with torch.no_grad():
        return unet(*(x.to(unet.dtype) if x.is_floating_point() else x for x in INPUTS)).sample


# --- what is shared ---


@pytest.mark.parametrize("part", ["unet", "autoencoder"])
def test_one_copy_is_read_and_held(base, part, reads):
    first, second = (LOADERS[part](str(base), expect="any", share=True) for _ in range(2))
    assert len(reads) == 1
    assert same_weights(first, second)
    assert not {id(m) for m in first.modules()} & {id(m) for m in second.modules()}
    own = LOADERS[part](str(base), expect="any")
    assert not same_weights(first, own)
    state = own.state_dict()
    assert state.keys() == first.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in second.state_dict().items())
    assert second.training
    assert not any(p.requires_grad for p in second.parameters())
    assert shared_weights(second) == [name for name, _ in second.named_parameters()]
    assert not shared_weights(own)


def test_single_files_are_read_once(tmp_path, base, reads):
    path = tmp_path / "model.safetensors"
    save_file(whole_model(toy_networks()), path)
    first, second = (load_unet(str(path), config=str(base / "unet"), expect="any", share=True) for _ in range(2))
    assert len(reads) == 1
    assert same_weights(first, second)


def test_the_same_files_by_another_name_are_shared(tmp_path, base):
    (tmp_path / "link").symlink_to(base)
    (tmp_path / "hub").mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):  # as in the hub's cache
        (tmp_path / "hub" / name).symlink_to(base / "unet" / name)
    first = shared_bases.unet(base)
    assert same_weights(first, shared_bases.unet(tmp_path / "link"))
    assert same_weights(first, load_unet(str(tmp_path / "hub"), None, expect="any", share=True))


def test_other_precisions_and_changed_files_are_not_shared(tmp_path):
    base = write_model(tmp_path, toy_networks())
    first = shared_bases.unet(base)
    half = load_unet(str(base), expect="any", dtype="bfloat16", share=True)
    assert half.dtype == torch.bfloat16
    assert first.dtype == torch.float32
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    stamp = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(stamp, stamp))
    assert not same_weights(first, shared_bases.unet(base))


def test_every_user_may_expect_another_base(base):
    kept = shared_bases.unet(base)
    with pytest.raises(ValueError, match=r"the unet of Stable Diffusion 2\.1-base in .* cross_attention_dim is 6"):
        load_unet(str(base), share=True)
    assert kept.conv_in.weight is shared_bases.unet(base).conv_in.weight


@pytest.mark.slow
def test_memory_is_freed_with_the_last_user(base, reads):
    first = shared_bases.student(base)
    second = shared_bases.velocity(base)
    weight = weakref.ref(second.unet.time_embedding.linear_1.weight)
    assert len(reads) == 2  # UNet and autoencoder
    del first
    gc.collect()
    assert weight() is not None
    shared_bases.unet(base)
    assert len(reads) == 2
    del second
    gc.collect()
    assert weight() is None
    shared_bases.unet(base)
    assert len(reads) == 3


# --- conversions ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_conversions_act_on_all_and_keep_them_together(base, dtype):
    first, second = shared_bases.unet(base), shared_bases.unet(base)
    first.to(dtype)
    assert second.dtype == dtype
    assert same_weights(first, second)
    second.to(torch.float32)
    assert first.dtype == torch.float32
    assert same_weights(first, second)


def test_a_converted_base_is_read_anew(base):
    first = shared_bases.unet(base).double()
    later = shared_bases.unet(base)
    assert later.dtype == torch.float32
    assert first.dtype == torch.float64
    assert same_weights(later, shared_bases.unet(base))


def test_swapping_conversions_keep_them_together(base):
    first, second = shared_bases.unet(base), shared_bases.unet(base)
    before = ask(first)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        first.double()
        second.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert same_weights(first, second)
    torch.testing.assert_close(ask(second), before.double(), rtol=1e-4, atol=1e-5)


def overwritten(network):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return network.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("convert", [lambda network: network.to("meta"), overwritten, copy.deepcopy])
def test_what_takes_them_apart_leaves_the_others_alone(base, convert):
    first, second = shared_bases.unet(base), shared_bases.unet(base)
    before = ask(second)
    converted = convert(first)
    assert not same_weights(converted, second)
    assert not shared_weights(converted)
    assert torch.equal(ask(second), before)
    assert shared_weights(second)


def test_spawned_processes_share_what_they_are_given(base):
    pair = nn.ModuleList([shared_bases.unet(base), shared_bases.unet(base)])
    first, second = pickle.loads(pickle.dumps(pair))
    assert same_weights(first, second)
    assert shared_weights(second)
    assert torch.equal(ask(first), ask(pair[0]))


# --- what is everyone's own ---


@pytest.mark.slow
def test_adapters_of_one_do_not_show_in_another(base):
    velocity, plain, other = shared_bases.velocity(base), shared_bases.unet(base), shared_bases.student(base, seed=1)
    before = [ask(unet) for unet in (velocity.unet, plain, other.unet)]
    added = shared_bases.student(base)
    shared_bases.awake(added, 5)
    added.restore(torch.rand(1, 3, 8, 8))
    for unet, answer in zip((velocity.unet, plain, other.unet), before, strict=True):
        assert torch.equal(ask(unet), answer)
    assert not torch.allclose(ask(added.unet), before[1])
    assert torch.equal(ask(added.unet), ask(shared_bases.awake(shared_bases.student(base, share=False), 5).unet))


def test_what_is_trained_is_not_shared(base):
    student, velocity = shared_bases.student(base), shared_bases.velocity(base)
    for network in (student, velocity):
        shared = set(shared_weights(network))
        assert {n for n, p in network.named_parameters() if p.requires_grad}.isdisjoint(shared)
        assert all("lora_" in n or n.startswith(("unet.conv_in.base", "head.")) or n in shared
                   for n, _ in network.named_parameters())  # fmt: skip
    assert "unet.conv_in.base_layer.weight" in shared_weights(velocity)
    assert "unet.conv_in.base_layer.weight" not in shared_weights(student)


@pytest.mark.parametrize("teacher_first", [True, False])
def test_a_frozen_user_freezes_nobody_else(base, teacher_first):
    expected = {n for n, p in shared_bases.student(base, share=False).named_parameters() if p.requires_grad}
    if teacher_first:
        teacher = Frozen(shared_bases.student(base, seed=1))
        student = shared_bases.student(base)
    else:
        student = shared_bases.student(base)
        teacher = Frozen(shared_bases.student(base, seed=1))
    assert {n for n, p in student.named_parameters() if p.requires_grad} == expected
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert student.unet.training
    assert not teacher.network.unet.training
    assert student.unet.conv_out.base_layer.weight is teacher.network.unet.conv_out.base_layer.weight


# --- what is refused ---


@pytest.mark.parametrize(
    ("build", "setting"),
    [
        (lambda base: OneStepStudent(shared_bases.unet(base), shared_bases.codec(base)), "lora"),
        (lambda base: VelocityField(shared_bases.unet(base)), "lora"),
        (
            lambda base: OneStepTraining(
                tiny.adapted_student(), tiny.reconstruction(), shared_bases.unet(base), shared_bases.unet(base)
            ),
            "critic_lora",
        ),
    ],
    ids=["student", "velocity", "critic"],
)
def test_training_all_weights_of_a_shared_base_is_refused(base, build, setting):
    message = (
        rf"load_unet\(share=True\) gives frozen weights that others use, too\. .*`share: false`, or give `{setting}`"
    )
    with pytest.raises(ValueError, match=message):
        build(base)


def test_a_codec_over_a_shared_base_has_nothing_to_train(base):
    with pytest.raises(ValueError, match="has nothing to train"):
        tiny.fit(CodecTraining(shared_bases.codec(base)), max_steps=1)


@pytest.mark.parametrize("adapted", [True, False])
def test_nobody_loads_over_a_shared_base(base, adapted):
    network = shared_bases.student(base) if adapted else nn.ModuleDict({"unet": shared_bases.unet(base)})
    state = {name: value + 1 for name, value in network.state_dict().items()}
    before = ask(shared_bases.unet(base))
    with pytest.raises(ValueError, match=r"found \d+ of its base \(first: .*Set `share: false`"):
        network.load_state_dict(state, strict=False)
    assert torch.equal(ask(shared_bases.unet(base)), before)


def test_what_is_trained_can_be_loaded(base):
    student, other = shared_bases.student(base), shared_bases.student(base, seed=1)
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    student.load_state_dict({n: v for n, v in other.state_dict().items() if n in trained}, strict=False)
    assert torch.equal(ask(student.unet), ask(other.unet))


def test_merged_weights_are_loaded_into_weights_of_ones_own(tmp_path, base):
    kept = shared_bases.codec(base)
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    student = OneStepStudent(shared_bases.unet(base, share=False), shared_bases.codec(base))
    parts = {"unet": student.unet, "vae": student.codec.adapted()}
    contents = {name: {n: v + 1 for n, v in part.state_dict().items()} for name, part in parts.items()}
    torch.save(contents, tmp_path / "osediff.pkl")
    load_student_weights(student, tmp_path / "osediff.pkl")
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    changed = student.codec.state_dict()
    assert all(torch.equal(value + 1, changed[name]) for name, value in before.items())
    # A student with adapters is filled by no such file, so its autoencoder stays with the others.
    kept_together = OneStepStudent(shared_bases.unet(base), shared_bases.codec(base), lora=LoRA())
    assert len(shared_weights(kept_together.codec)) == len(before)


# --- the base beneath adapters ---


def test_base_beneath_adapters_is_a_network_of_its_own(base):
    student = shared_bases.student(base)
    bare = without_adapters(student.unet.requires_grad_(False))  # torch multiplies by trained weights in another order
    assert not any("lora_" in name for name, _ in bare.named_parameters())
    assert bare.conv_in.weight is student.unet.conv_in.base_layer.weight
    assert sum("lora_A" in name for name, _ in student.unet.named_parameters()) > 10
    plain = shared_bases.unet(base, share=False).requires_grad_(False)
    plain.conv_in.load_state_dict(bare.conv_in.state_dict())
    assert torch.equal(ask(bare), ask(plain))
    assert not torch.allclose(ask(student.unet), ask(bare))
    student.double()
    assert bare.dtype == torch.float64
