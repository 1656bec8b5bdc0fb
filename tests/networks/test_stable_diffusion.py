"""The base model from folders and single files, and what is not the base expected."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ctsr_lightning.networks import load_autoencoder, load_unet, stable_diffusion
from ctsr_lightning.networks.stable_diffusion import FINGERPRINTS
from ctsr_lightning.weights.single_file import (
    STABLE_DIFFUSION_UNET,
    STABLE_DIFFUSION_VAE,
    guess_config,
    rename,
    select,
)
from helpers.ldm_layout import (
    assert_equal,
    describe_scheduler,
    original_autoencoder,
    original_unet,
)

LOADERS = {"unet": load_unet, "autoencoder": load_autoencoder}
FULL_UNET = {"sample_size": 64, **STABLE_DIFFUSION_UNET[1024]}
WEIGHTS = "diffusion_pytorch_model.safetensors"


# --- folders ---


@pytest.mark.parametrize("part", ["unet", "autoencoder"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_half_precision_folder_is_read_in_the_precision_asked_for(model, networks, part, dtype):
    folder = {"unet": "unet", "autoencoder": "vae"}[part]
    path = model / folder / WEIGHTS
    half = {k: v.half() for k, v in load_file(path).items()}
    path.unlink()
    save_file(half, model / folder / "diffusion_pytorch_model.fp16.safetensors")
    loaded = LOADERS[part](str(model), expect="any", dtype=dtype)
    assert_equal(loaded, networks[part].half(), getattr(torch, dtype))


def test_full_precision_goes_before_half(model, networks):
    save_file(
        {k: torch.zeros_like(v).half() for k, v in networks["unet"].state_dict().items()},
        model / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    assert_equal(load_unet(str(model), expect="any"), networks["unet"])


def test_weights_in_parts_and_as_pytorch_file_are_read(model, networks):
    state = load_file(model / "unet" / WEIGHTS)
    (model / "unet" / WEIGHTS).unlink()
    names = sorted(state)
    for number, chosen in enumerate((names[::2], names[1::2]), start=1):
        path = model / "unet" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({k: state[k] for k in chosen}, path)
    assert_equal(load_unet(str(model), expect="any"), networks["unet"])
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        load_unet(str(model), expect="any")
    next((model / "unet").glob("*.safetensors")).unlink()
    torch.save(state, model / "unet" / "diffusion_pytorch_model.bin")
    assert_equal(load_unet(str(model / "unet"), None, expect="any"), networks["unet"])


def test_attention_names_of_the_published_autoencoder_are_read(model, networks):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # older diffusers
    state = {}
    for name, tensor in load_file(model / "vae" / WEIGHTS).items():
        renamed = name
        for today, before in old.items():
            renamed = renamed.replace(f".attentions.0.{today}.", f".attentions.0.{before}.")
        state[renamed] = tensor
    assert sum("query" in name for name in state) == 4  # weight and bias in encoder and decoder
    save_file(state, model / "vae" / WEIGHTS)
    assert_equal(load_autoencoder(str(model), expect="any"), networks["autoencoder"])


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_training_never_writes_into_the_file(tmp_path, model, single, name):
    path = tmp_path / name
    save_file(single, path) if name.endswith("safetensors") else torch.save(single, path)
    before = path.read_bytes()
    loaded = load_unet(str(path), config=str(model / "unet"), expect="any")
    with torch.no_grad():
        loaded.conv_in.weight.add_(1.0)
    assert path.read_bytes() == before
    assert torch.equal(
        load_unet(str(path), config=str(model / "unet"), expect="any").conv_in.weight + 1.0, loaded.conv_in.weight
    )


def test_loading_leaves_random_numbers_alone(model):
    before = torch.get_rng_state()
    load_unet(str(model), expect="any")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("part", "other", "found"), [("unet", "vae", "AutoencoderKL"), ("autoencoder", "unet", "UNet2")]
)
def test_folder_of_another_part_is_named(model, part, other, found):
    with pytest.raises(ValueError, match=f"found the configuration of {found}"):
        LOADERS[part](str(model), other, expect="any")


@pytest.mark.parametrize("part", ["unet", "autoencoder"])
def test_weights_of_another_part_are_named(model, part):
    mine, other = ("unet", "vae") if part == "unet" else ("vae", "unet")
    (model / other / WEIGHTS).replace(model / mine / WEIGHTS)
    words = "a KL autoencoder" if part == "unet" else "Stable Diffusion's UNet"
    with pytest.raises(ValueError, match=rf"Expected the weights of .*missing .*more\. The file holds {words}"):
        LOADERS[part](str(model), expect="any")


def test_configuration_that_is_no_json_is_named(model):
    (model / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected a JSON file at .*config\.json"):
        load_unet(str(model))


@pytest.mark.parametrize("path", ["./nothing/here", "/nothing/here", "only-a-name"])
def test_missing_model_folder_is_named(path):
    with pytest.raises(FileNotFoundError, match=path):
        load_unet(path)


def test_empty_model_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"of UNet2DConditionModel in .*found nothing"):
        load_unet(str(tmp_path))


# --- single files ---


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "bare.ckpt"])
@pytest.mark.parametrize("part", ["unet", "autoencoder"])
def test_original_single_file_is_read(tmp_path, model, single, networks, name, part):
    half = {k: v.half() for k, v in single.items()}
    path = tmp_path / name
    if name.endswith(".ckpt"):
        torch.save({"state_dict": half, "global_step": 1} if name.startswith("model") else half, path)
    else:
        save_file(half, path)
    config = model / ("unet" if part == "unet" else "vae")
    loaded = LOADERS[part](str(path), config=str(config / "config.json"), expect="any")
    assert_equal(loaded, networks[part].half().float())
    assert_equal(LOADERS[part](str(path), config=str(config), expect="any"), networks[part])


def test_averages_in_a_single_file_take_the_place_of_raw_weights(tmp_path, model, single, networks):
    averages = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v + 1
        for k, v in single.items()
        if k.startswith("model.")
    }
    save_file({**single, **averages, "model_ema.decay": torch.ones(1)}, tmp_path / "both.safetensors")
    loaded = load_unet(str(tmp_path / "both.safetensors"), config=str(model / "unet"), expect="any")
    assert torch.equal(loaded.conv_in.weight, networks["unet"].conv_in.weight + 1)


def test_part_alone_is_read_in_both_layouts(tmp_path, model, networks):
    save_file(original_unet(networks["unet"].state_dict(), 1, prefix=""), tmp_path / "unet.safetensors")
    loaded = load_unet(str(tmp_path / "unet.safetensors"), config=str(model / "unet"), expect="any")
    assert_equal(loaded, networks["unet"])
    alone = {k: v.clone() for k, v in original_autoencoder(networks["autoencoder"].state_dict(), 3, prefix="").items()}
    save_file({**alone, "loss.logvar": torch.zeros(1)}, tmp_path / "vae.safetensors")
    loaded = load_autoencoder(str(tmp_path / "vae.safetensors"), config=str(model / "vae"), expect="any")
    assert_equal(loaded, networks["autoencoder"])
    for part, folder in (("unet", "unet"), ("autoencoder", "vae")):  # the configuration lies beside the file
        assert_equal(LOADERS[part](str(model / folder / WEIGHTS), expect="any"), networks[part])


@pytest.mark.parametrize("width", [1024, 768])
@pytest.mark.parametrize("original", [True, False])
def test_published_unets_need_no_configuration(width, original):
    with torch.device("meta"):
        network = UNet2DConditionModel.from_config({"sample_size": 64, **STABLE_DIFFUSION_UNET[width]})
    state = network.state_dict()
    tensors, found = select(original_unet(state, layers=2) if original else state, "unet", Path("file"))
    config = guess_config(tensors, "unet", found, Path("file"))
    assert {k: network.config[k] for k in config} == config
    assert {k: v.shape for k, v in rename(tensors, "unet", found, dict(network.config)).items()} == {
        k: v.shape for k, v in state.items()
    }
    expect = "sd21-base" if width == 1024 else "sd15"
    assert not FINGERPRINTS[expect].differences("unet", network, "epsilon")
    assert len(state) == 686


def test_published_autoencoder_needs_no_configuration():
    with torch.device("meta"):
        network = AutoencoderKL.from_config(STABLE_DIFFUSION_VAE)
    state = network.state_dict()
    tensors, original = select(original_autoencoder(state, blocks=4), "autoencoder", Path("file"))
    renamed = rename(tensors, "autoencoder", original, dict(network.config))
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in state.items()}
    assert not FINGERPRINTS["sd21-base"].differences("autoencoder", network, None)
    assert len(state) == 248


def test_unknown_width_asks_for_a_configuration(tmp_path, single):
    save_file(single, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"found one with prompts 6 wide.*set `config`"):
        load_unet(str(tmp_path / "model.safetensors"), expect="any")


def test_configuration_of_a_folder_is_its_own(model):
    with pytest.raises(ValueError, match="Expected a single file with `config`, found the folder"):
        load_unet(str(model), config=str(model / "unet"))


# --- the base expected ---


def full_size(folder, prediction="epsilon", **options):
    """A UNet of full size as far as it is looked at before its weights are read."""
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps({**FULL_UNET, **options}))
    save_file({"x": torch.zeros(1)}, folder / "unet" / WEIGHTS)
    if prediction:
        describe_scheduler(folder, prediction)
    return str(folder)


@pytest.mark.parametrize("expect", ["sd21-base", "sd15"])
def test_velocity_prediction_is_refused(tmp_path, expect):
    path = full_size(tmp_path, "v_prediction")
    with pytest.raises(ValueError, match=r"'v_prediction' instead of 'epsilon' \(2\.1 at 768 pixels"):
        load_unet(path, expect=expect)
    with pytest.raises(ValueError, match="'v_prediction'"):
        load_unet(str(tmp_path / "unet"), None, expect=expect)


@pytest.mark.parametrize("prediction", ["epsilon", None])
def test_the_right_base_passes_on_to_its_weights(tmp_path, prediction):
    path = full_size(tmp_path, prediction)
    with pytest.raises(ValueError, match=r"Expected the weights of UNet2DConditionModel in .* found others: missing"):
        load_unet(path)
    with pytest.raises(ValueError, match=r"cross_attention_dim is 1024 instead of 768; parameters is 865910724"):
        load_unet(path, expect="sd15")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 9}, r"in_channels is 9 instead of 4 \(an inpainting UNet"),
        ({"cross_attention_dim": 768}, "cross_attention_dim is 768 instead of 1024; parameters is"),
        ({"layers_per_block": 1}, "found another: parameters is"),
    ],
)
def test_look_alikes_are_told_apart(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_unet(full_size(tmp_path, **options))
    assert "`any`" in str(caught.value)


def test_the_base_is_checked_unless_told_otherwise(model):
    with pytest.raises(ValueError, match=r"the unet of Stable Diffusion 2\.1-base in .* cross_attention_dim is 6"):
        load_unet(str(model))
    with pytest.raises(ValueError, match=r"the autoencoder of Stable Diffusion 2\.1-base in .* parameters is"):
        load_autoencoder(str(model))
    (model / "vae" / "config.json").write_text(
        json.dumps({**json.loads((model / "vae" / "config.json").read_text()), "scaling_factor": 0.13025})
    )
    with pytest.raises(ValueError, match=r"scaling_factor is 0\.13025 instead of 0\.18215"):
        load_autoencoder(str(model))


def test_single_file_is_refused_where_it_says_velocity(tmp_path, model, single, monkeypatch):
    known = load_unet(str(model), expect="any")
    count = sum(p.numel() for p in known.parameters())
    monkeypatch.setitem(
        stable_diffusion.FINGERPRINTS,
        "sd21-base",
        stable_diffusion.Fingerprint("toy", cross_attention_dim=6, unet_parameters=count),
    )
    path, config = tmp_path / "model.safetensors", str(model / "unet")
    save_file(single, path, metadata={"modelspec.prediction_type": "epsilon"})
    load_unet(str(path), config=config)
    save_file(single, path, metadata={"modelspec.prediction_type": "v"})
    with pytest.raises(ValueError, match="'v_prediction'"):
        load_unet(str(path), config=config)
    save_file(single, path)
    load_unet(str(path), config=config)
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: v\n")
    with pytest.raises(ValueError, match="'v_prediction'"):
        load_unet(str(path), config=config)
