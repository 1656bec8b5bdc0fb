"""Students in OSEDiff's dialect: the published programs' keys, and the same images by plain diffusers and peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ctsr_lightning.cli import main
from ctsr_lightning.exporting.export import export_model
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.restorer import Restorer
from helpers import adapter_files

from .conftest import full_size

pytestmark = pytest.mark.slow
LQ = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_published_training_would_write_the_same_entries(full: Path, base: Path, tmp_path: Path) -> None:
    done = export_model(full, "osediff", tmp_path / "osediff.pkl")
    assert done.difference == 0.0
    found = torch.load(tmp_path / "osediff.pkl", weights_only=True)
    unet, autoencoder = (
        cls.from_pretrained(base / name) for cls, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    theirs = adapter_files.osediff(unet, autoencoder)
    assert found.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, dict):
            assert {k: v.shape for k, v in found[name].items()} == {k: v.shape for k, v in value.items()}
        elif isinstance(value, list):
            assert sorted(found[name]) == sorted(set(value))
        else:
            assert found[name] == value
    student = load_model(full).student.eval()
    for network, entry in ((unet, "state_dict_unet"), (autoencoder, "state_dict_vae")):
        for name, parameter in network.named_parameters():  # as the published program loads it
            if name in found[entry]:
                parameter.data.copy_(found[entry][name])
    latent, words = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), student.prompt(LQ)
    with torch.no_grad():
        expected = student.unet(latent, torch.tensor([999]), words).sample
        found = unet.eval()(latent, torch.tensor([999]), words).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_student_restores_the_same_from_it(full: Path, base: Path, tmp_path: Path) -> None:
    export_model(full, "osediff", tmp_path / "osediff.pkl")
    source = full_size(tmp_path / "other", base, stage=1)
    checkpoint = torch.load(source, weights_only=True)
    checkpoint["hyper_parameters"]["student"]["init_args"]["weights"] = str(tmp_path / "osediff.pkl")
    checkpoint["hyper_parameters"] |= {"velocity": torch.load(full, weights_only=True)["hyper_parameters"]["velocity"]}
    checkpoint["state_dict"] = torch.load(full, weights_only=True)["state_dict"]
    torch.save(checkpoint, source)
    one, two = (Restorer.from_pretrained(path, "cpu") for path in (full, source))
    torch.testing.assert_close(one(LQ), two(LQ), rtol=0, atol=1e-5)
    assert one(LQ).std() > 1e-3


def test_a_merged_student_becomes_the_merged_dialect(full: Path, tmp_path: Path) -> None:
    export_model(full, "safetensors", tmp_path / "merged")
    export_model(tmp_path / "merged", "osediff", tmp_path / "osediff.pkl")
    found = torch.load(tmp_path / "osediff.pkl", weights_only=True)
    assert found.keys() == {"unet", "vae"}
    restorer = Restorer.from_pretrained(full, "cpu")
    assert torch.equal(found["unet"]["conv_in.weight"], restorer.model.student.unet.conv_in.weight)


def test_reasons_are_given(nano: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--checkpoint", str(nano), "--format", "osediff", str(tmp_path / "o.pkl")])
    said = capsys.readouterr().err
    assert "timestep is 250, OSEDiff's is 999" in said
    assert "its codec is a NanoCodec" in said
    source = full_size(tmp_path / "source", base, stage=1, lora={"rank": 4, "alpha": 4})
    with pytest.raises(ValueError, match="alpha of its adapters is 4"):
        export_model(source, "osediff", tmp_path / "o.pkl")
    assert not (tmp_path / "o.pkl").exists()
    with pytest.raises(ValueError, match="no --prompt for osediff"):
        export_model(source, "osediff", tmp_path / "o.pkl", prompt="a")
    (tmp_path / "o.pkl").write_text("mine")
    with pytest.raises(ValueError, match="new file"):
        export_model(source, "osediff", tmp_path / "o.pkl")
    assert (tmp_path / "o.pkl").read_text() == "mine"
