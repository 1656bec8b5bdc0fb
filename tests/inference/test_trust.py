"""What a configuration inside a checkpoint or a model folder may name: nothing else is imported, built or called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import _common
from safetensors.torch import save_file

import ctsr_lightning as ctsr
from ctsr_lightning.codecs.codec import NanoCodec
from ctsr_lightning.inference.loading import load_model, load_teachers
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.networks.nano import nano_unet

UNET = {"class_path": "ctsr_lightning.networks.nano_unet", "init_args": {"latent_channels": 8, "widths": [8, 16]}}
CODEC = {"class_path": "NanoCodec", "init_args": {"channels": 8, "width": 8}}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    student = OneStepStudent(nano_unet(8, widths=(8, 16)), NanoCodec(8, 8), timestep=250)
    return {f"student.unet.{k}": v.clone() for k, v in student.unet.state_dict().items()}


@pytest.fixture
def written(tmp_path: Path, state: dict[str, torch.Tensor]) -> Any:
    """Write a checkpoint whose student has other settings than those of its weights."""

    def write(folder: bool = False, **settings: Any) -> Path:
        init_args = {"unet": UNET, "codec": CODEC, "timestep": 250} | settings
        student = {"class_path": "OneStepStudent", "init_args": init_args}
        if folder:
            save_file(state, tmp_path / "weights.safetensors")
            model = {"class_path": "CTSRStage1", "init_args": {"student": student}}
            (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model}))
            return tmp_path / "weights.safetensors"
        torch.save(
            {"state_dict": state, "hyper_parameters": {"_class_path": "CTSRStage1", "student": student}},
            tmp_path / "model.ckpt",
        )
        return tmp_path / "model.ckpt"

    return write


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on Python's path that leaves a trace when it is imported."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a_stranger.py").write_text(
        "from ctsr_lightning.codecs.codec import NanoCodec\n\n\nclass Codec(NanoCodec):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "a_stranger", raising=False)
    return "a_stranger"


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"codec": "a_stranger.Codec"},
        {"codec": {"class_path": "a_stranger.Codec", "init_args": {"channels": 8, "width": 8}}},
        {"unet": "a_stranger.Codec"},
        {"prompt": "a_stranger.Codec"},
        {"prompt": {"class_path": "EmbeddedPrompt", "init_args": {"width": {"class_path": "a_stranger.Codec"}}}},
    ],
)
def test_strangers_are_not_imported(written: Any, stranger: str, folder: bool, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a_stranger|does not fit this version"):
        load_model(written(folder, **settings))
    assert stranger not in sys.modules


def test_the_refusal_says_which_file_and_which_option(written: Any, stranger: str) -> None:
    path = written(codec=f"{stranger}.Codec")
    with pytest.raises(ValueError, match=r"model\.ckpt' to name .* found 'a_stranger\.Codec', .*--trust a_stranger"):
        load_model(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["fidelity"] = {"class_path": "a_stranger.Teacher"}
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"found 'a_stranger\.Teacher'"):
        load_teachers(path)


@pytest.mark.parametrize(
    "path",
    ["os.system", "subprocess.Popen", "torch.hub.load", "torch.serialization.os.system", "ctsr_lightning.training.fit"],
)
def test_what_is_imported_already_is_refused_as_well(written: Any, path: str) -> None:
    for settings in ({"codec": path}, {"unet": {"class_path": path, "init_args": {"config": "evil.yaml"}}}):
        with pytest.raises(ValueError, match=rf"found '{path}'|does not fit this version"):
            load_model(written(**settings))


@pytest.mark.parametrize(
    ("unet", "found"),
    [
        (
            {"class_path": "diffusers.UNet2DConditionModel.from_pretrained", "dict_kwargs": {"trust": True}},
            "the method|does not fit",
        ),
        ({**UNET, "init_args": {**UNET["init_args"], "trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_named_packages_run_no_code_of_others(written: Any, unet: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        load_model(written(unet=unet))


def test_what_the_user_trusts_is_built(written: Any, stranger: str) -> None:
    path = written(codec={"class_path": f"{stranger}.Codec", "init_args": CODEC["init_args"]})
    with ctsr.trusting(stranger):
        assert type(load_model(path).codec).__module__ == stranger
    with pytest.raises(ValueError, match="--trust a_stranger"):
        load_model(path)
    with pytest.raises(ValueError, match="found 'my codec'"), ctsr.trusting("my codec"):
        pass


def test_the_users_own_command_line_is_left_as_it_was(written: Any) -> None:
    """The lists of jsonargparse belong to the process; this is private there, so renamed it would fail here."""
    before = dict(_common.parsing_settings)
    assert load_model(written())
    with pytest.raises(ValueError, match=r"found 'os\.system'"):
        load_model(written(codec="os.system"))
    assert _common.parsing_settings == before
