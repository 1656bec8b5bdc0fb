"""Merged folders and files restore the same images, anywhere, and plain diffusers reads their networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from ctsr_lightning.cli import main
from ctsr_lightning.exporting.export import export_model
from ctsr_lightning.inference.pretrained import identify_model
from ctsr_lightning.inference.restorer import Restorer

from .conftest import full_size

pytestmark = pytest.mark.slow
LQ = torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0))


ROUNDING = 1e-5
"""Weights that lie elsewhere in memory make other sums."""


def same(name: str | Path, source: Path, controls: tuple[float, ...] = (0.0, 0.5, 1.0)) -> None:
    """A model restores what another one does."""
    ours, theirs = (Restorer.from_pretrained(one, "cpu") for one in (name, source))
    for image, expected in zip(ours(LQ, controls), theirs(LQ, controls), strict=True):
        torch.testing.assert_close(image, expected, rtol=0, atol=ROUNDING)
        assert expected.std() > 1e-3


@pytest.mark.parametrize("form", ["folder", "safetensors"])
@pytest.mark.parametrize("layout", ["nano", "full"])
def test_the_images_are_the_same_without_the_files_that_it_was_built_on(
    form, layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(layout)
    done = export_model(source, form, tmp_path / "out" / "one")
    assert done.difference < ROUNDING
    (tmp_path / "out" / "one").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    same("moved", source)
    text = (tmp_path / "moved" / "config.yaml").read_text()
    assert str(source.parent) not in text
    assert "lora" not in text
    if layout == "full":
        base = yaml.safe_load((tmp_path / "moved" / "README.md").read_text().split("---")[1])
        assert base["license"] == "other"
        assert "derive from" in (tmp_path / "moved" / "LICENSE").read_text()
    assert "Apache License" in (tmp_path / "moved" / "LICENSE").read_text()


def test_plain_diffusers_reads_the_networks(full: Path, tmp_path: Path) -> None:
    export_model(full, "folder", tmp_path / "out")
    restorer = Restorer.from_pretrained(full, "cpu")
    latent, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([999])
    words = restorer.model.student.prompt(LQ[None])
    parts = {"unet": restorer.model.student.unet, "velocity_unet": restorer.model.velocity.unet}
    for name, network in parts.items():
        plain = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder=name)
        with torch.no_grad():
            found, expected = plain(latent, time, words).sample, network(latent, time, words).sample
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in plain.state_dict().items())
    plain = AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae")
    with torch.no_grad():
        image = plain.decode(latent / plain.config.scaling_factor).sample
        torch.testing.assert_close(image, restorer.model.codec.decode(latent), rtol=0, atol=ROUNDING)
        code = plain.encode(image).latent_dist.mode() * plain.config.scaling_factor
        expected = restorer.model.codec.encode(image)  # the encoder's adapters are merged
        torch.testing.assert_close(code, expected, rtol=0, atol=ROUNDING)
    assert DDPMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler").config.prediction_type == "epsilon"


def test_a_prompt_comes_along_as_its_embedding(base: Path, tmp_path: Path) -> None:
    source = full_size(tmp_path / "source", base, stage=1)
    export_model(source, "safetensors", tmp_path / "own")
    export_model(source, "safetensors", tmp_path / "other", prompt="a a")
    same(tmp_path / "own", source, (0.0,))
    expected = Restorer.from_pretrained(source, "cpu", prompt="a a")(LQ)
    found = Restorer.from_pretrained(tmp_path / "other", "cpu")(LQ)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
    assert not torch.allclose(found, Restorer.from_pretrained(source, "cpu")(LQ), atol=ROUNDING)


def test_nanos_unets_are_diffusers_own(nano: Path, tmp_path: Path) -> None:
    export_model(nano, "folder", tmp_path / "out")
    plain = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet")
    own = Restorer.from_pretrained(nano, "cpu").model.student.unet.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    assert not (tmp_path / "out" / "vae").exists()


def test_a_student_alone(base: Path, tmp_path: Path) -> None:
    source = full_size(tmp_path / "source", base, stage=1)
    export_model(source, "folder", tmp_path / "out")
    assert not load_file(tmp_path / "out" / "weights.safetensors")  # all is in unet and vae
    same(tmp_path / "out", source, (0.0,))


def test_the_whole_is_read_or_refused(nano: Path, tmp_path: Path) -> None:
    export_model(nano, "folder", tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    config = (tmp_path / "out" / "config.yaml").read_text()
    for named in ("../other/unet/diffusion_pytorch_model.safetensors", "unet/config.json"):
        text = config.replace("student.unet.: unet/diffusion_pytorch_model.safetensors", f"student.unet.: {named}")
        assert text != config
        (tmp_path / "out" / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match="safetensors files below"):
            Restorer.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / "config.yaml").write_text(config)
    (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="Copy the whole folder"):
        Restorer.from_pretrained(tmp_path / "out")


def test_another_unet_is_another_model(nano: Path, tmp_path: Path) -> None:
    """Results in a folder are told apart by the model's identity, which is of `weights.safetensors`."""
    export_model(nano, "folder", tmp_path / "one")
    checkpoint = torch.load(nano.with_name("student.ckpt"), weights_only=True)
    checkpoint["state_dict"]["student.unet.conv_in.bias"] += 1.0
    shutil.copytree(nano.parent, tmp_path / "source")
    torch.save(checkpoint, tmp_path / "source" / "student.ckpt")
    export_model(tmp_path / "source" / nano.name, "folder", tmp_path / "two")
    one, two = (identify_model(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.split("+")[0] != two.split("+")[0]


def test_exporting_twice_is_the_same(nano: Path, tmp_path: Path) -> None:
    export_model(nano, "safetensors", tmp_path / "one")
    export_model(tmp_path / "one", "folder", tmp_path / "two")
    same(tmp_path / "two", nano)
    with pytest.raises(ValueError, match="found an exported one"):
        Restorer.from_pretrained(tmp_path / "one", "cpu").save_pretrained(tmp_path / "three")


def test_a_hub_id_is_read_from_the_cache(nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own cache layout; nothing is downloaded."""
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "0123456789abcdef"
    export_model(nano, "folder", snapshot)
    (tmp_path / "hub" / "models--owner--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--owner--name" / "refs" / "main").write_text("0123456789abcdef")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    same("owner/name", nano)


def test_two_encoders_in_one_are_refused(base: Path, tmp_path: Path) -> None:
    source = full_size(tmp_path / "source", base, z0_source="reencode")
    with pytest.raises(ValueError, match="the format holds one encoder"):
        export_model(source, "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_in_the_output_are_kept(nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["export", "--checkpoint", str(nano), str(tmp_path)])
    assert end.value.code == 1
    assert "new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    main(["export", "--checkpoint", str(nano), "--format", "safetensors", str(tmp_path / "empty")])
    out = capsys.readouterr().out
    assert "Loaded again and compared: pixels in [0, 1] differ by " in out
    assert (tmp_path / "empty" / "weights.safetensors").is_file()


def test_what_does_not_restore_the_same_is_not_kept(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctsr_lightning.exporting import folders

    kept = folders.merged_weights
    monkeypatch.setattr(folders, "merged_weights", lambda model: {k: v + 0.01 for k, v in kept(model).items()})
    with pytest.raises(ValueError, match=r"to differ by 0\.002 at most, found inf"):
        export_model(nano, "safetensors", tmp_path / "out")
    assert not list(tmp_path.iterdir())
