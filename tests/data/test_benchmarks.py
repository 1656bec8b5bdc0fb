"""The benchmarks by name: their files in `configs/data`, as the command line reads them."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from ctsr_lightning.data import PairFolder, RealESRGANDataModule
from ctsr_lightning.images import write_image
from helpers.reference import SHARED

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"
COUNTS = {"realsr": 100, "drealsr": 93, "div2k_val": 3000}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("CTSR_")]:
        monkeypatch.delenv(name)


def _module(*words):
    """The data module of a command line, as a command beside LightningCLI makes it."""
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(RealESRGANDataModule, "data")
    return parser.instantiate(parser.parse_args(list(map(str, words)))).data


def _pack(root, lq, gt, count, lq_side=8):
    """A benchmark in the layout it is published in, its images a sixteenth of the side."""
    small, large = torch.rand(3, lq_side, lq_side), torch.rand(3, 32, 32)
    for number in range(count):
        write_image(root / lq / f"Canon_{number:03d}_LR4.png", small)
        write_image(root / gt / f"Canon_{number:03d}_LR4.png", large)
    return root


@pytest.mark.parametrize("name", COUNTS)
def test_folders_follow_the_environment(name, monkeypatch, tmp_path):
    def root(**variables):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        (folder,) = _module("--data", CONFIGS / f"{name}.yaml").pair_folders["test"]
        assert folder == PairFolder(root=folder.root, count=COUNTS[name])
        return folder.root

    assert root() == f"data/{name}"
    assert root(CTSR_DATA="/sets") == f"/sets/{name}"
    assert root(**{f"CTSR_{name.upper()}": "/mine"}) == "/mine"


@pytest.mark.parametrize(
    ("name", "lq", "lq_side"), [("realsr", "test_LR", 8), ("drealsr", "test_SR_bicubic", 32), ("realsr", "LR", 8)]
)
def test_packs_as_they_are_published_load_whole(name, lq, lq_side, tmp_path, monkeypatch):
    monkeypatch.setenv("CTSR_DATA", str(tmp_path))
    root = _pack(tmp_path / name, lq, "HR" if lq == "LR" else "test_HR", COUNTS[name], lq_side)
    module = _module("--data", CONFIGS / f"{name}.yaml")
    module.setup("test")
    batches = list(module.test_dataloader())
    assert len(batches) == COUNTS[name]
    assert {(batch.lq.shape, batch.gt.shape) for batch in batches} == {((1, 3, 8, 8), (1, 3, 32, 32))}
    assert len({batch.key[0] for batch in batches}) == COUNTS[name]
    for folder in root.iterdir():
        (folder / "Canon_007_LR4.png").unlink()
    with pytest.raises(
        ValueError, match=f"Expected {COUNTS[name]} pairs in '{root}', found {COUNTS[name] - 1}, likely"
    ):
        _module("--data", CONFIGS / f"{name}.yaml").setup("test")


def test_a_missing_benchmark_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CTSR_DATA", str(tmp_path))
    module = _module("--data", CONFIGS / "div2k_val.yaml")
    with pytest.raises(FileNotFoundError, match=r"Expected a folder at '\S*div2k_val', found nothing"):
        module.setup("test")
    (tmp_path / "div2k_val" / "DIV2K_V2_val").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"test_LR with test_HR, .*found the folders DIV2K_V2_val"):
        module.setup("test")


@pytest.mark.parametrize("name", COUNTS)
def test_a_training_configuration_does_not_change_the_images(name, tmp_path):
    training = {"train": "/t", "test": "/x", "scale": 2, "val_crop": 64, "val_repeats": 3, "pool": 4, "num_workers": 0}
    config = tmp_path / "training.yaml"
    config.write_text(
        yaml.safe_dump({"data": {"class_path": "ctsr_lightning.data.RealESRGANDataModule", "init_args": training}})
    )
    module = _module("--config", config, "--data", CONFIGS / f"{name}.yaml")
    assert module.sources["test"] == []
    assert [folder.count for folder in module.pair_folders["test"]] == [COUNTS[name]]
    assert (module.scale, module.val_crop, module.val_repeats, module.pool) == (4, None, 1, None)


def test_the_number_of_pairs_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CTSR_DATA", str(tmp_path))
    root = _pack(tmp_path / "div2k_val", "test_LR", "test_HR", 3)
    folder = f'[{{"root": "{root}", "count": 3}}]'
    module = _module("--data", CONFIGS / "div2k_val.yaml", "--data.test_pairs", folder)
    module.setup("test")
    assert len(module.test_dataloader()) == 3


@pytest.mark.reference
def test_real_pairs_load_by_name(monkeypatch):
    monkeypatch.setenv("CTSR_DATA", str(SHARED / "data"))
    module = _module("--data", CONFIGS / "realsr.yaml")
    module.setup("test")
    loader = module.test_dataloader()
    assert len(loader) == 100
    batch = next(iter(loader))
    assert (batch.lq.shape, batch.gt.shape) == ((1, 3, 128, 128), (1, 3, 512, 512))
