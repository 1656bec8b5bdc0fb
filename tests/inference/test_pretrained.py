"""Trained models by name, and the folder that one is saved as."""

from pathlib import Path

import pytest
import torch
import yaml

from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.weights.shipped import shipped_folder, shipped_model

LQ = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))

shipped = pytest.mark.skipif(not (shipped_folder() / "stage2").is_dir(), reason="a copy without the shipped weights")


@shipped
def test_by_default_it_is_the_shipped_model() -> None:
    model = Restorer.from_pretrained(device="cpu")
    assert model.source == shipped_model()
    assert model.controllable
    again = Restorer.from_pretrained(shipped_model(), "cpu")
    assert torch.equal(model(LQ, t=0.5), again(LQ, 0.5))


@shipped
def test_a_saved_model_is_the_same_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Restorer.from_pretrained("nano", "cpu")
    model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")  # a second time over the first
    (tmp_path / "saved").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for name in ("moved", "moved/weights.safetensors", tmp_path / "moved"):
        read = Restorer.from_pretrained(name, "cpu")
        for image, expected in zip(read(LQ, t=[0, 1]), model(LQ, t=[0, 1]), strict=True):
            assert torch.equal(image, expected)
    assert str(shipped_folder()) not in (tmp_path / "moved" / "config.yaml").read_text()
    kept = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())["model"]["init_args"]
    assert kept.keys() == {"student", "velocity", "velocity_start", "z0_source"}  # no teachers, losses or optimizer
    card, own = ((folder / "README.md").read_text("utf-8") for folder in (tmp_path / "moved", shipped_folder()))
    assert [card.count(f"\n## {part}\n") for part in ("Use", "Training", "Figures", "Limits", "Licence")] == [1] * 5
    assert "Real-ESRGAN" in card  # whom a teacher learned from
    assert own.partition("## Limits")[2].partition("##")[0] in card
    assert "by hand" not in card


@shipped
def test_a_saved_stage_1_restores_at_0_only(tmp_path: Path) -> None:
    model = Restorer.from_pretrained(shipped_folder() / "stage1", "cpu")
    model.save_pretrained(tmp_path / "saved")
    read = Restorer.from_pretrained(tmp_path / "saved", "cpu")
    assert torch.equal(read(LQ), model(LQ))
    with pytest.raises(ValueError, match="model without a slider"):
        read(LQ, t=1.0)


@shipped
def test_other_files_in_the_folder_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"new or empty folder at .* found notes\.txt"):
        Restorer.from_pretrained(device="cpu").save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_built_in_memory_is_not_saved(tmp_path: Path, tradeoff) -> None:
    with pytest.raises(ValueError, match="built in memory has no configuration"):
        Restorer(tradeoff, "cpu").save_pretrained(tmp_path)


def test_what_is_no_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trained model in the folder .* found no weights\.safetensors"):
        Restorer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing\.ckpt"):
        Restorer.from_pretrained(tmp_path / "missing.ckpt")
    with pytest.raises(FileNotFoundError, match="hub id"):
        Restorer.from_pretrained("nothing-of-this-name")


def test_a_hub_id_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own cache layout; nothing is downloaded."""
    model = Restorer.from_pretrained(device="cpu")
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "0123456789abcdef"
    model.save_pretrained(snapshot)
    (tmp_path / "hub" / "models--owner--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--owner--name" / "refs" / "main").write_text("0123456789abcdef")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    read = Restorer.from_pretrained("owner/name", "cpu")
    assert torch.equal(read(LQ, t=0.3), model(LQ, t=0.3))
