"""`pisa_sr.pkl`: files made by plain diffusers and peft are read and computed with."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch.nn import functional as F

from ctsr_lightning.codecs import KLCodec, NanoCodec
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.diffusion.schedule import NoiseSchedule
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.models.student import load_student_weights
from ctsr_lightning.networks import LoRA
from ctsr_lightning.networks.lora import adapters_of
from ctsr_lightning.teachers import OneStepTeacher
from ctsr_lightning.weights.one_step_files import OSEDIFF, PISA, find_format
from helpers import adapter_files, tiny

BOTH, PIX = ("pix", "sem"), ("pix",)


@pytest.fixture(scope="module")
def adapted():
    unet = tiny.prompted_unet()
    return unet, adapter_files.pisa(unet)


@pytest.fixture
def plain(adapted):
    """A UNet adapted by peft, all adapters active, and the file that it is published as."""
    adapted[0].set_adapter(list(adapted[0].peft_config))
    return adapted


@pytest.fixture
def path(plain, tmp_path):
    torch.save(plain[1], tmp_path / "pisa_sr.pkl")
    return tmp_path / "pisa_sr.pkl"


def student(sets=BOTH, **options):
    """A student on the base that `plain` started from."""
    options = {"lora": LoRA(sets=sets), "prompt": tiny.TinyPrompt(), "timestep": 1, "residual": True, **options}
    return OneStepStudent(tiny.prompted_unet(), KLCodec(tiny.autoencoder()), **options)


def oracle(unet, lq):
    """z_H = z_L - ε(z_L, 1, c) with nothing but diffusers and peft."""
    with torch.no_grad():
        image = 2 * F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1) - 1
        start = tiny.autoencoder().encode(image).latent_dist.mode() * 0.18215
        return start - unet(start, torch.tensor([1]), tiny.TinyPrompt()(lq)).sample


def halves(unet, *names):
    """Switch on these sets in plain peft."""
    unet.set_adapter([f"default_{group}_{name}" for name in names for group in adapter_files.GROUPS])
    return unet


def different(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize(("sets", "other"), [(BOTH, PIX), (PIX, BOTH)])
def test_restored_latent_is_the_residual_form_of_plain_diffusers_and_peft(plain, path, sets, other):
    unet, lq = plain[0], torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        found = student(sets, weights=path).latent(lq)
        untouched = student(sets).latent(lq)
    expected = oracle(halves(unet, *sets), lq)
    assert different(found, expected) <= 1e-5
    assert different(found, untouched) > 0.01
    assert different(found, oracle(halves(unet, *other), lq)) > 0.01  # the sets are not the same


def test_sets_add_up_as_when_they_are_merged_one_after_the_other(path):
    """W + 8/r (B_pix A_pix + B_sem A_sem): the default that PiSA-SR merges."""
    loaded, name = student(weights=path), "up_blocks.1.attentions.0.proj_in"
    layer = loaded.unet.get_submodule(name)
    weight = layer.base_layer.weight + sum(
        2.0 * layer.lora_B[f"default_decoder_{s}"].weight @ layer.lora_A[f"default_decoder_{s}"].weight for s in BOTH
    )
    x = torch.randn(5, weight.shape[1])
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.base_layer.bias))


def test_residual_step_stays_in_float32_under_autocast(path):
    with torch.autocast("cpu", torch.bfloat16):
        assert student(weights=path).latent(torch.rand(1, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("score", ["own", "base"])
def test_teacher_restores_by_the_residual_and_scores_as_a_denoiser(plain, path, score):
    unet, teacher = plain[0], OneStepTeacher(student(weights=path), score)
    lq, t = torch.rand(2, 3, 8, 8), torch.tensor([20, 700])
    noisy = add_noise(NoiseSchedule(), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), t, torch.rand(2, 3, 32, 32))
    if score == "base":
        unet = tiny.prompted_unet()
    with torch.no_grad():
        found = teacher.predict_noise(noisy, teacher.condition(lq))
        torch.testing.assert_close(found, unet(noisy.latent, t, tiny.TinyPrompt()(lq)).sample)
        torch.testing.assert_close(teacher.restore(lq), student(weights=path).restore(lq))


def test_adapters_are_trained_and_the_base_is_not(plain, path):
    trained = {n for n, p in student(weights=path).named_parameters() if p.requires_grad}
    assert trained == {f"unet.{name}" for name in plain[1]["state_dict_unet"]}


def test_gradients_reach_both_sets():
    fresh = student(gradient_checkpointing=True).train()
    fresh.latent(torch.rand(1, 3, 8, 8)).square().mean().backward()
    b = {n: p.grad for n, p in fresh.named_parameters() if "lora_B" in n}
    assert all(g is not None and g.abs().sum() > 0 for g in b.values())


def test_our_own_files_hold_both_sets(path, tmp_path):
    trained, lq = student(weights=path), torch.rand(1, 3, 8, 8)
    state = {f"student.{n}": p.detach().clone() for n, p in trained.named_parameters() if p.requires_grad}
    save_file(state, tmp_path / "weights.safetensors")
    assert torch.equal(student(weights=tmp_path / "weights.safetensors").latent(lq), trained.latent(lq))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*meta parameter in the current model, which is a no-op.*")
def test_true_size_has_the_names_and_shapes_that_peft_makes(tmp_path):
    with torch.device("meta"):
        published = adapter_files.filled(adapter_files.pisa(UNet2DConditionModel(**adapter_files.SD21_UNET)))
    torch.save(published, tmp_path / "pisa_sr.pkl")
    assert len(published["state_dict_unet"]) == 2 * 2 * 258
    for sets, modules in ((BOTH, [94, 94, 148, 148, 16, 16]), (PIX, [94, 148, 16])):
        with torch.device("meta"):
            options = {"lora": LoRA(sets=sets), "timestep": 1, "residual": True}
            full = OneStepStudent(UNet2DConditionModel(**adapter_files.SD21_UNET), NanoCodec(4, 8), **options)
        assert [len(one.modules) for one in adapters_of(full.unet).values()] == modules
        trained = {n: p.shape for n, p in full.unet.named_parameters() if p.requires_grad}
        wanted = {n: v.shape for n, v in published["state_dict_unet"].items() if sets == BOTH or "_sem." not in n}
        assert trained == wanted
        load_student_weights(full, tmp_path / "pisa_sr.pkl")  # compares everything; meta tensors take no numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": None}, r"no adapter default_encoder_pix.*lora: \{rank: 4, sets: \[pix, sem\]\}"),
        ({"lora": LoRA()}, "no adapter default_encoder_pix"),
        ({"sets": ("sem",)}, "no adapter default_encoder_pix"),
        ({"lora": LoRA(2, sets=BOTH)}, "rank of default_encoder_pix is 4 in the file, 2 in the student"),
        ({"lora": LoRA(alpha=4, sets=BOTH)}, "alpha of default_encoder_pix is 8 in the file, 4 in the student"),
        ({"encoder_lora": LoRA()}, "file has no adapter default_encoder for the student's autoencoder"),
        ({"timestep": 999}, "timestep is 999 in the student, 1 in"),
        ({"residual": False}, "residual is False in the student, True in"),
    ],
)
def test_a_student_of_other_settings_is_refused(path, options, message):
    with pytest.raises(ValueError, match=message):
        student(**options, weights=path)


def test_ranks_may_differ_in_a_file_and_are_named(tmp_path):
    torch.save(adapter_files.pisa(tiny.prompted_unet(), 4, 2), tmp_path / "p.pkl")
    with pytest.raises(ValueError, match="rank of default_encoder_sem is 2 in the file, 4 in the student's UNet"):
        student(weights=tmp_path / "p.pkl")
    student(PIX, weights=tmp_path / "p.pkl")


def test_incomplete_file_is_named(plain, path):
    torch.save({k: v for k, v in plain[1].items() if k != "lora_rank_unet_sem"}, path)
    with pytest.raises(ValueError, match=r"Expected pisa_sr\.pkl.*missing lora_rank_unet_sem"):
        student(weights=path)


def test_osediff_and_pisa_are_told_apart(plain, path, tmp_path):
    assert find_format(plain[1]) is PISA
    osediff = adapter_files.osediff(tiny.prompted_unet(), tiny.autoencoder())
    assert find_format(osediff) is OSEDIFF
    torch.save(osediff, tmp_path / "osediff.pkl")
    with pytest.raises(ValueError, match="the student's UNet has no adapter default_encoder;"):
        student(weights=tmp_path / "osediff.pkl")
    torch.save({**osediff, **plain[1]}, path)
    with pytest.raises(ValueError, match=r"Expected osediff\.pkl.*found in .*unexpected lora_rank_unet_pix"):
        student(weights=path)


@pytest.mark.parametrize("sets", [("pix", "pix"), ("a.b",), ("",)])
def test_sets_need_names_of_their_own(sets):
    with pytest.raises(ValueError, match="different plain words"):
        LoRA(sets=sets)


def test_settings_are_read_from_plain_values():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--lora", type=LoRA | None)
    for sets in ([], ["pix"], ["pix", "sem"]):
        parsed = parser.parse_object({"lora": {"rank": 4, "sets": sets}})
        instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the old name, before 4.49
        assert instantiate(parsed).lora == LoRA(4, sets=tuple(sets))
