"""The weights that come with the package: complete, small, and a model that really restores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctsr_lightning.data import RealESRGANDataModule
from ctsr_lightning.images import list_images, read_image, upsample
from ctsr_lightning.inference.loading import load_model, load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.metrics.distortion import psnr_y
from ctsr_lightning.metrics.perceptual import LPIPS
from ctsr_lightning.metrics.texture import TextureDistance
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.weights.shipped import shipped_folder, shipped_model
from helpers.reference import SHARED


def test_a_package_without_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ctsr_lightning.weights.shipped.shipped_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the model 'nano'.*found nothing.*--checkpoint FILE.*recipes nano`"):
        shipped_model()


def test_the_files_are_those_of_a_package() -> None:
    folder = shipped_folder()
    weights = sorted(folder.rglob("*.safetensors"))
    parts = {"codec", "prior", "fidelity_teacher", "realness_teacher", "stage1", "stage2"}
    assert {path.parent.name for path in weights} == parts
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 36e6
    assert {tensor.dtype for path in weights for tensor in load_file(path).values()} == {torch.float16}
    for path in folder.rglob("config.yaml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == {"model"}
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["figures"]
    assert card["limits"] in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_model_of_it_loads_in_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("realness_teacher", "stage1"):
        assert isinstance(load_model(shipped_folder() / name / "weights.safetensors"), OneStepStudent)
    model = load_model(shipped_model())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert load_teachers(shipped_model()).keys() == {"T_f", "T_r"}


@pytest.mark.slow
def test_it_restores_photographs_that_it_was_not_trained_on() -> None:
    restorer = Restorer.from_pretrained(shipped_model(), "cpu")
    photos = RealESRGANDataModule(crop=128, val_crop=256, val_repeats=2, num_workers=0)
    photos.setup("validate")
    distance = TextureDistance()
    gains, nearer, curve = [], [], []
    for batch in photos.val_dataloader():
        restored = restorer(batch.lq, [0.0, 0.5, 1.0])
        bicubic = upsample(batch.lq, 4)
        gains.append(float(psnr_y(restored[2], batch.gt) - psnr_y(bicubic, batch.gt)))
        nearer.append(float(distance(restored[0], batch.gt) / distance(bicubic, batch.gt)))
        curve.append([[float(psnr_y(x, batch.gt)), float(distance(x, batch.gt))] for x in restored])
    assert sum(gains) / len(gains) > 0.3  # dB
    assert sum(nearer) / len(nearer) < 0.95
    (p0, d0), (p1, d1), (p2, d2) = torch.tensor(curve).mean(0).tolist()
    assert p0 < min(p1, p2) - 0.2
    assert d0 < d1 < d2


@pytest.mark.slow
@pytest.mark.reference
def test_real_pairs_are_restored_as_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(SHARED / "torch_home"))
    restorer, distance = Restorer.from_pretrained(shipped_model(), "cpu"), LPIPS("squeeze")
    pairs = [list_images(SHARED / "data" / "realsr" / name)[::10] for name in ("lq", "gt")]
    found = []
    for lq, gt in zip(*(map(read_image, paths) for paths in pairs), strict=True):
        images = [*restorer(lq[None], [0.0, 1.0]), upsample(lq[None], 4)]
        found.append([[float(psnr_y(x, gt[None])), float(distance(x, gt[None]))] for x in images])
    (p0, d0), (p1, d1), (bicubic, far) = torch.tensor(found).mean(0).tolist()
    assert p0 < p1 - 0.4  # dB
    assert p1 > bicubic - 0.2  # RealSR is hardly degraded: bicubic enlargement has a high PSNR there
    assert d0 < 0.7 * far
    assert d0 < d1 < far
