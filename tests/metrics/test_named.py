"""Which metrics a collection holds, and their directions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.metrics.distortion import PSNRY
from ctsr_lightning.metrics.frechet import FeatureNetwork
from ctsr_lightning.metrics.named import (
    NAMED,
    PUBLISHED,
    metric_names,
    named_metrics,
    restoration_metrics,
)


class Squared(PerceptualDistance):
    @property
    def name(self) -> str:
        return "squared"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean(dim=(1, 2, 3))


class Means(FeatureNetwork):
    @property
    def name(self) -> str:
        return "means"

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_metrics_that_need_no_pyiqa_do_not_import_it() -> None:
    names = ("psnr_y", "ssim_y", "texture_distance", "grid_energy", "lattice_8", "dists", "lpips_squeeze")
    code = f"""if True:
        import sys
        from ctsr_lightning.metrics.named import named_metrics
        built, missing = named_metrics({names})
        assert len(built) >= 5 and len(built) + len(missing) == {len(names)}  # LPIPS and DISTS need weights
        assert "pyiqa" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_and_additions() -> None:
    suite = restoration_metrics(perceptual=Squared(), fid=Means())
    directions = {name: metric.higher_is_better for name, metric in suite.items()}
    assert directions == {"psnr_y": True, "ssim_y": True, "squared": False, "fid_means": False}
    for metric in suite.values():
        metric.update(torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16))
        assert metric.compute().dtype == torch.float64


def test_own_metrics_add_to_the_defaults() -> None:
    own = PSNRY()
    assert set(restoration_metrics({"mine": own}, Squared())) == {"psnr_y", "ssim_y", "mine", "squared"}
    assert restoration_metrics({"psnr_y": own})["psnr_y"] is own
    assert set(restoration_metrics({"mine": own, "ssim_y": None})) == {"psnr_y", "mine"}


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="Two metrics are called 'squared'"):
        restoration_metrics({"squared": PSNRY()}, Squared())
    with pytest.raises(ValueError, match="at least one metric"):
        restoration_metrics({"psnr_y": None, "ssim_y": None})


def test_metrics_by_name() -> None:
    assert metric_names("psnr, SSIM psnr_y lpips maniqa-pipal") == ["psnr_y", "ssim_y", "lpips_alex", "maniqa_pipal"]
    assert metric_names(["fid"]) == ["fid_inception_clean"]
    assert metric_names("all,lpips_vgg") == [*PUBLISHED, "lpips_vgg"]
    with pytest.raises(ValueError, match=r"'lpips_resnet' is not a metric. Expected some of psnr_y \(psnr\)"):
        metric_names("psnr,lpips_resnet")
    with pytest.raises(ValueError, match="at least one metric"):
        metric_names(" , ")


def test_named_metrics_say_what_they_are_or_what_they_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    built, missing = named_metrics(list(NAMED))
    best = {"psnr_y": True, "psnr_rgb": True, "psnr_rgb_gtmean": True, "ssim_y": True, "texture_distance": False}
    best |= dict.fromkeys(("grid_energy", "lattice_4", "lattice_8"))
    assert set(built) == set(best)
    assert set(built) | set(missing) == set(NAMED)
    for name, metric in built.items():
        assert metric.definition
        assert metric.higher_is_better is best[name]
    assert all(str(tmp_path) in str(error) and "https://" in str(error) for error in missing.values())
    assert not list(tmp_path.iterdir())  # nothing was fetched or created
