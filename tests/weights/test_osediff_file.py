"""`osediff.pkl`: files made by plain diffusers and peft are read and computed with."""

import copy
import functools
import os
import pickle

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch.nn import functional as F

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.models.student import load_student_weights
from ctsr_lightning.networks import LoRA
from ctsr_lightning.networks.lora import adapters_of
from ctsr_lightning.teachers import OneStepTeacher
from ctsr_lightning.weights.one_step_files import MERGED_OSEDIFF, OSEDIFF, find_format
from helpers import adapter_files, tiny

ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[999]


@pytest.fixture(scope="module")
def plain():
    """Networks adapted by peft, and the file that they are published as."""
    unet, autoencoder = tiny.prompted_unet(), tiny.autoencoder()
    return unet, autoencoder, adapter_files.osediff(unet, autoencoder)


@pytest.fixture
def path(plain, tmp_path):
    torch.save(plain[2], tmp_path / "osediff.pkl")
    return tmp_path / "osediff.pkl"


def student(**options):
    """A student on the base that `plain` started from."""
    options = {"lora": LoRA(), "encoder_lora": LoRA(), "prompt": tiny.TinyPrompt(), **options}
    return OneStepStudent(tiny.prompted_unet(), KLCodec(tiny.autoencoder()), **options)


def oracle(unet, autoencoder, lq):
    """z_L and ẑ, and D(ẑ), with nothing but diffusers, peft and the published formula."""
    with torch.no_grad():
        image = 2 * F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1) - 1
        start = autoencoder.encode(image).latent_dist.mode() * 0.18215
        noise = unet(start, torch.tensor([999]), tiny.TinyPrompt()(lq)).sample.numpy()
        clean = (start.numpy() - np.sqrt(1 - ALPHA_BAR) * noise) / np.sqrt(ALPHA_BAR)
        return torch.from_numpy(clean).float()


def test_restored_latent_is_the_closed_form_of_plain_diffusers_and_peft(plain, path):
    unet, autoencoder, _ = plain
    lq = torch.rand(2, 3, 8, 8)
    expected = oracle(unet, autoencoder, lq)
    untouched = student()
    with torch.no_grad():
        found = student(weights=path).latent(lq)
        assert (untouched.latent(lq) - expected).abs().max() > 0.1  # the file matters
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("rank", [1, 6])
def test_alpha_stays_8_at_any_rank(tmp_path, rank):
    lq, results = torch.rand(1, 3, 8, 8), {}
    for alpha in (8, rank):
        unet, autoencoder = tiny.prompted_unet(), tiny.autoencoder()
        torch.save(adapter_files.osediff(unet, autoencoder, rank, lora_alpha=alpha), tmp_path / "o.pkl")
        results[alpha] = oracle(unet, autoencoder, lq)
    found = student(lora=LoRA(rank), encoder_lora=LoRA(rank), weights=tmp_path / "o.pkl").latent(lq)
    tolerance = 1e-5 * results[8].abs().max().item()
    assert (found - results[8]).abs().max() <= tolerance
    assert (found - results[rank]).abs().max() > 1000 * tolerance


@pytest.mark.parametrize("part", ["lora", "encoder_lora"])
def test_a_student_of_another_alpha_is_refused(path, part):
    with pytest.raises(ValueError, match=r"alpha of default_encoder is 8 in the file, 4 in the student") as error:
        student(**{part: LoRA(alpha=4)}, weights=path)
    assert "lora: {rank: 4}" in str(error.value)


@pytest.mark.parametrize("part", ["conv_in.base_layer.bias", "conv_in.base_layer.weight"])
def test_first_convolution_is_replaced(plain, path, part):
    assert torch.equal(student(weights=path).unet.get_parameter(part), plain[2]["state_dict_unet"][part])


def test_teacher_and_student_start_equal(path):
    teacher, lq = OneStepTeacher(student(weights=path)), torch.rand(2, 3, 8, 8)
    with torch.no_grad():  # to the last bit only if both are frozen: torch multiplies by trainable weights differently
        assert torch.equal(teacher.restore(lq), student(weights=path).requires_grad_(False).restore(lq))


def test_all_that_the_file_fills_is_trained(plain, path):
    trained = {n for n, p in student(weights=path).named_parameters() if p.requires_grad}
    unet, vae = plain[2]["state_dict_unet"], plain[2]["state_dict_vae"]
    assert trained == {f"unet.{n}" for n in unet} | {f"codec.autoencoder.{n}" for n in vae}


@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pt", "w.ckpt", "noname"])
def test_contents_count_not_the_name(path, name):
    renamed = path.rename(path.with_name(name))
    assert find_format(torch.load(renamed, weights_only=True)) is OSEDIFF
    reread = student(weights=renamed)
    assert torch.equal(student(weights=str(renamed)).unet.conv_in.weight, reread.unet.conv_in.weight)


@functools.cache
def full_file(version):
    """A file on a base of the true size, with numbers."""
    with torch.device("meta"):
        contents = adapter_files.osediff(full_unet(version), AutoencoderKL(**adapter_files.SD_AUTOENCODER))
    return adapter_files.filled(contents)


def full_unet(version):
    with torch.device("meta"):
        return UNet2DConditionModel(**{"2.1": adapter_files.SD21_UNET, "1.5": adapter_files.SD15_UNET}[version])


@functools.cache
def full_student(version):
    """A student on such a base; as its tensors are on `meta`, loading compares everything and changes nothing."""
    with torch.device("meta"):
        codec = KLCodec(AutoencoderKL(**adapter_files.SD_AUTOENCODER))
        return OneStepStudent(full_unet(version), codec, lora=LoRA(), encoder_lora=LoRA())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*meta parameter in the current model, which is a no-op.*")
@pytest.mark.parametrize("version", ["2.1", "1.5"])
def test_true_sizes_have_the_names_and_shapes_that_peft_makes(version, tmp_path):
    published, ours = full_file(version), full_student(version)
    assert [len(published[f"unet_lora_{g}_modules"]) for g in adapter_files.GROUPS] == [94, 148, 16]
    assert [len(one.modules) for one in adapters_of(ours.unet).values()] == [94, 148, 16]
    assert len(published["vae_lora_encoder_modules"]) == 65
    assert len(set(published["vae_lora_encoder_modules"])) == 32
    assert len(published["state_dict_unet"]) == 518
    trained = {n: p.shape for n, p in ours.unet.named_parameters() if p.requires_grad}
    assert trained == {n: v.shape for n, v in published["state_dict_unet"].items()}
    torch.save(published, tmp_path / "osediff.pkl")
    load_student_weights(ours, tmp_path / "osediff.pkl")


@pytest.mark.slow
def test_adapters_of_another_base_are_named(tmp_path):
    torch.save(full_file("2.1"), tmp_path / "osediff.pkl")
    with pytest.raises(ValueError, match="a UNet with cross-attention 1024, the student's has 768") as error:
        load_student_weights(full_student("1.5"), tmp_path / "osediff.pkl")
    message = str(error.value)
    assert "proj_in.lora_A.default_encoder.weight is (4, 320) in the file, (4, 320, 1, 1) in the network" in message
    # Of each transformer proj_in and proj_out with A and B, and A of the two projections that see the prompt.
    transformers = 16
    assert f"and {1 + transformers * (4 + 2) - 5} more" in message
    assert "Stable Diffusion 2.1-base" in message


def test_every_tensor_of_another_rank_is_counted(path):
    with pytest.raises(ValueError, match=r"rank of default_encoder is 4 in the file, 2 in the student's UNet"):
        student(lora=LoRA(2), weights=path)
    with pytest.raises(ValueError, match=r"rank of default_encoder is 4 in the file, 3 in the student's autoencoder"):
        student(encoder_lora=LoRA(3), weights=path)


@pytest.fixture
def merged(plain, tmp_path):
    """The same networks with the adapters merged in, by arithmetic."""
    unet, autoencoder, _ = plain
    states = {}
    for key, module in (("vae", autoencoder), ("unet", unet)):
        flat = copy.deepcopy(module)
        for name, child in list(flat.named_modules()):
            if hasattr(child, "merge") and hasattr(child, "base_layer"):
                child.merge()
                flat.set_submodule(name, child.base_layer)
        states[key] = flat.state_dict()
        assert not [name for name in states[key] if "lora" in name]
    torch.save(states, tmp_path / "merged.pkl")
    return tmp_path / "merged.pkl"


def test_merged_copy_fills_a_student_without_adapters(plain, merged):
    unet, autoencoder, _ = plain
    lq = torch.rand(1, 3, 8, 8)
    assert find_format(torch.load(merged, weights_only=True)) is MERGED_OSEDIFF
    filled = student(lora=None, encoder_lora=None, weights=merged)
    expected = oracle(unet, autoencoder, lq)
    assert (filled.latent(lq) - expected).abs().max() <= 1e-4 * expected.abs().max()  # merging rounds
    stored = torch.load(merged, weights_only=True)
    assert all(torch.equal(v, filled.unet.state_dict()[k]) for k, v in stored["unet"].items())
    assert all(torch.equal(v, filled.codec.autoencoder.state_dict()[k]) for k, v in stored["vae"].items())


@pytest.mark.parametrize(("part", "name"), [("lora", "UNet"), ("encoder_lora", "autoencoder")])
def test_merged_copy_is_not_for_adapters(merged, part, name):
    options = {"lora": None, "encoder_lora": None, part: LoRA()}
    with pytest.raises(ValueError, match=rf"no adapter default_encoder for the student's {name}.*lora: null"):
        student(**options, weights=merged)


def test_merged_copy_is_strict(merged):
    states = torch.load(merged, weights_only=True)
    states["unet"]["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    states["vae"]["stray"] = states["vae"].pop("quant_conv.bias")
    torch.save(states, merged)
    bare = {"lora": None, "encoder_lora": None}
    with pytest.raises(ValueError, match=r"conv_in.weight is \(8, 9, 3, 3\) in the file, \(8, 4, 3, 3\)") as error:
        student(**bare, weights=merged)
    assert "autoencoder: missing quant_conv.bias" in str(error.value)
    assert "autoencoder: unexpected stray" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": None}, r"student's UNet has no adapter default_encoder.*lora: \{rank: 4\}"),
        ({"encoder_lora": None}, r"student's autoencoder has no adapter default_encoder.*encoder_lora: \{rank: 4\}"),
        ({"lora": LoRA(sets=("pix",))}, "the file has no adapter default_encoder_pix for the student's UNet"),
        ({"timestep": 500}, "timestep is 500 in the student, 999 in the weights' training"),
        ({"residual": True}, "residual is True in the student, False"),
        ({"prediction": "v_prediction"}, "prediction is v_prediction in the student, epsilon"),
    ],
)
def test_a_student_of_other_settings_is_refused(path, options, message):
    with pytest.raises(ValueError, match=message):
        student(**options, weights=path)


def edited(path, change):
    contents = torch.load(path, weights_only=True)
    change(contents)
    torch.save(contents, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["unet_lora_encoder_modules"].pop(), r"on (\d+) modules in the file, on \d+ of .*student only: "),
        (lambda c: c["unet_lora_others_modules"].append("x.y"), r"file only: x\.y; student only: none"),
        (lambda c: c["vae_lora_encoder_modules"].clear(), "no adapter default_encoder for the student's autoencoder"),
        (lambda c: c["state_dict_vae"].popitem(), r"autoencoder: missing \S+default_encoder.weight"),
        (lambda c: c["state_dict_unet"].update(stray=torch.zeros(1)), "UNet: unexpected stray"),
        (lambda c: c["state_dict_unet"].update({"conv_in.base_layer.bias": torch.zeros(9)}), r"bias is \(9,\) in the"),
        (lambda c: c["state_dict_unet"].update(a=torch.zeros(1, dtype=torch.int64)), "found torch.int64 as 'a'"),
        (lambda c: c["state_dict_unet"].update(a="b"), "found a str as 'a'"),
        (lambda c: c.update(state_dict_vae=[1]), "weights by name as 'state_dict_vae'.* found a list"),
        (lambda c: c.update(rank_unet=4.0), r"a rank, an integer >= 1, as 'rank_unet'.*found 4\.0"),
        (lambda c: c.update(rank_vae=0), "as 'rank_vae'.*found 0"),
        (lambda c: c.update(unet_lora_others_modules="conv"), "list of module names.*found a str"),
        (lambda c: c.pop("rank_vae"), "missing rank_vae"),
        (lambda c: c.update(ema=1), "unexpected ema"),
    ],
)
def test_each_difference_is_named_and_nothing_changes(path, change, message):
    target = student()
    before = copy.deepcopy(target.state_dict())
    edited(path, change)
    with pytest.raises(ValueError, match=message):
        load_student_weights(target, path)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    with pytest.raises(ValueError, match=message):
        student(weights=path)


def test_duplicates_and_order_in_the_lists_do_not_matter(path):
    before = student(weights=path).state_dict()
    edited(path, lambda c: c["unet_lora_decoder_modules"].extend(c["unet_lora_decoder_modules"]))
    edited(path, lambda c: c["unet_lora_decoder_modules"].reverse())
    after = student(weights=path).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_half_precision_in_a_file_is_widened(plain, path):
    edited(path, lambda c: c.update(state_dict_unet={k: v.half() for k, v in c["state_dict_unet"].items()}))
    weight = student(weights=path).unet.conv_in.base_layer.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.detach(), plain[0].conv_in.base_layer.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            {"encoder.conv_in.weight": torch.zeros(1), "quantize.embedding.weight": torch.zeros(1)},
            r"found in '.*': 2 tensors \(encoder\.conv_in\.weight, quantize\.embedding\.weight\)",
        ),
        ({"params_ema": {"a": torch.zeros(1)}, "step": 3}, r"2 entries \(params_ema, step\)"),
        ({}, r"0 entries \(\)"),
        ([torch.zeros(1)], "a list"),
        (torch.zeros(3), "a Tensor"),
    ],
)
def test_other_files_are_named(tmp_path, contents, message):
    torch.save(contents, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message) as error:
        student(weights=tmp_path / "w.pth")
    assert "osediff.pkl or pisa_sr.pkl" in str(error.value)


class Trap:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("dump", "careless"),
    [
        (torch.save, lambda path: torch.load(path, weights_only=False)),
        (lambda value, path: path.write_bytes(pickle.dumps(value)), lambda path: pickle.loads(path.read_bytes())),
    ],
)
def test_code_in_a_file_is_not_run(plain, tmp_path, dump, careless):
    dump({**plain[2], "rank_vae": Trap(tmp_path / "sprung")}, tmp_path / "osediff.pkl")
    with pytest.raises(ValueError, match="cannot be read safely, and nothing in it was executed"):
        student(weights=tmp_path / "osediff.pkl")
    assert not (tmp_path / "sprung").exists()
    careless(tmp_path / "osediff.pkl")
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.99])
def test_truncated_file_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"osediff\.pkl', but it cannot be read safely.*Get it again"):
        student(weights=path)


def test_our_own_files_are_still_read(path, tmp_path):
    trained, lq = student(weights=path), torch.rand(1, 3, 8, 8)
    state = {f"student.{n}": p.detach().clone() for n, p in trained.named_parameters() if p.requires_grad}
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": state, "callbacks": {}}, tmp_path / "last.ckpt")
    for name in ("weights.safetensors", "last.ckpt"):
        assert torch.equal(student(weights=tmp_path / name).latent(lq), trained.latent(lq))
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"weights of OneStepStudent, .* found others: missing unet\.conv_in"):
        student(weights=tmp_path / "last.ckpt")
