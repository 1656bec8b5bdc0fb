"""What is no base model, and bases on the hub with and without network."""

import os
import time

import pytest
import torch
from safetensors.torch import save_file

from ctsr_lightning.networks import load_autoencoder, load_unet
from ctsr_lightning.weights import hub
from ctsr_lightning.weights.single_file import read_tensors
from helpers.ldm_layout import assert_equal, describe_scheduler

LOADERS = {"unet": load_unet, "autoencoder": load_autoencoder}
WEIGHTS = "diffusion_pytorch_model.safetensors"


# --- what is no base ---


@pytest.mark.parametrize("place", ["folder", "file"])
def test_truncated_weights_are_named(tmp_path, model, single, place):
    path = model / "unet" / WEIGHTS if place == "folder" else tmp_path / "model.safetensors"
    if place == "file":
        save_file(single, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"Expected a file of weights at '.*{path.name}'.*cut short"):
        load_unet(str(model if place == "folder" else path), expect="any")


@pytest.mark.parametrize("place", ["folder", "file"])
def test_truncated_checkpoint_is_named(tmp_path, model, single, place):
    path = model / "unet" / "diffusion_pytorch_model.bin" if place == "folder" else tmp_path / "model.ckpt"
    torch.save(single, path)
    path.write_bytes(path.read_bytes()[:-100])
    if place == "folder":
        (model / "unet" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=rf"'.*{path.name}'.*cannot be read safely"):
        load_unet(str(model if place == "folder" else path), expect="any")


@pytest.mark.parametrize("place", ["folder", "file", "old file"])
def test_code_is_never_run(tmp_path, model, place):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = model / "unet" / "diffusion_pytorch_model.bin" if place == "folder" else tmp_path / "model.ckpt"
    (model / "unet" / WEIGHTS).unlink()
    torch.save({"state_dict": {}, "trap": Trap()}, path, _use_new_zipfile_serialization=place != "old file")
    with pytest.raises(ValueError, match=r"nothing in it was executed: it holds more than tensors"):
        load_unet(str(model if place == "folder" else path), expect="any")
    assert not (tmp_path / "sprung").exists()


def test_old_pytorch_format_is_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "old.ckpt")["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("part", "names", "message"),
    [
        (
            "autoencoder",
            ["encoder.down.0.block.0.conv1.weight", "quant_conv.weight", "quantize.embedding.weight"],
            r"found a vector-quantised autoencoder",
        ),
        ("autoencoder", ["model.diffusion_model.input_blocks.0.0.weight"], "found Stable Diffusion's UNet alone"),
        ("unet", ["first_stage_model.encoder.down.0.block.0.conv1.weight"], "found a KL autoencoder"),
        ("unet", ["text_model.final_layer_norm.weight"], "found a text encoder"),
        ("unet", ["student.unet.conv_in.weight"], "found weights of one of this package's trainings"),
        ("unet", ["who.knows"], r"found something else \(1 tensors: who\.knows"),
        ("unet", ["input_blocks.0.0.weight", "input_blocks.1.1.attn.relative_position_bias_table"], "without prompts"),
        ("unet", ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.label_emb.0.0.weight"], "XL"),
    ],
)
def test_wrong_file_for_a_slot_is_named(tmp_path, part, names, message):
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        LOADERS[part](str(tmp_path / "wrong.safetensors"), expect="any")
    assert "wrong.safetensors" in str(caught.value)


def test_file_of_nested_adapters_is_named(tmp_path):
    torch.save({"rank_unet": 4, "state_dict_unet": {"a": torch.zeros(1)}}, tmp_path / "osediff.pkl")
    with pytest.raises(ValueError, match=r"osediff\.pkl', found none in it, but rank_unet, state_dict_unet"):
        load_unet(str(tmp_path / "osediff.pkl"))


@pytest.mark.parametrize("path", ["runs/base.safetensors", "base.ckpt"])
def test_missing_file_is_no_hub_id(path):
    with pytest.raises(FileNotFoundError, match=f"{path}' in '.*', found nothing"):
        load_unet(path)


# --- the hub ---


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A hub that nobody answers for, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_network_a_hub_id_fails_at_once(offline):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"'someone/some-model'.*nor can the hub be reached"):
        load_unet("someone/some-model")
    assert time.monotonic() - start < hub.PATIENCE + 5


def test_cached_hub_model_needs_no_network(offline, model, networks):
    home = offline / "models--someone--some-model"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots").mkdir()
    model.replace(home / "snapshots" / ("0" * 40))
    describe_scheduler(home / "snapshots" / ("0" * 40), "v_prediction")
    assert_equal(load_unet("someone/some-model", expect="any"), networks["unet"])
    with pytest.raises(ValueError, match="'v_prediction'"):
        load_unet("someone/some-model")


def test_only_what_is_needed_is_downloaded(offline, tmp_path, model, networks, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns, local_files_only):
        if local_files_only:
            raise FileNotFoundError
        asked.append(allow_patterns)
        return str(model)

    (model / "unet" / WEIGHTS).rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    assert_equal(load_unet("someone/some-model", expect="any"), networks["unet"])
    small = ["unet/config.json", "scheduler/scheduler_config.json"]
    kinds = [f"unet/{WEIGHTS}", "unet/diffusion_pytorch_model-*.safetensors"]
    assert asked == [[*small, k] for k in (*kinds, "unet/diffusion_pytorch_model.fp16.safetensors")]


def test_model_that_the_hub_lacks_is_named(offline, monkeypatch):
    import huggingface_hub

    def refuse(*args, **options):
        raise OSError("401")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "_reachable", lambda: True)
    with pytest.raises(FileNotFoundError, match="Stability's own copies of Stable Diffusion 2 are gone"):
        load_unet("stabilityai/stable-diffusion-2-1-base")
