"""PSNR-Y and SSIM-Y against scikit-image, against published scores, and under batching."""

import csv

import pytest
import torch
from skimage.metrics import structural_similarity

from ctsr_lightning.images import quantize, read_image, rgb_to_y
from ctsr_lightning.metrics.distortion import PSNRY, SSIMY, psnr_y, ssim_y
from helpers.reference import SHARED


def pair(seed: int, size: tuple[int, int] = (40, 33), batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(batch, 3, *size, generator=generator)
    return (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), gt


@pytest.mark.reference
@pytest.mark.parametrize("name", ["Canon_001_LR4", "Canon_004_LR4", "Nikon_020_LR4", "Nikon_050_LR4"])
def test_equals_the_published_scores(name: str) -> None:
    with (SHARED / "reference" / "osediff_realsr_published_metrics.csv").open() as file:
        published = {row["image"]: row for row in csv.DictReader(file)}[f"{name}.png"]
    restored = read_image(SHARED / "reference" / "osediff_realsr" / f"{name}.png")[None]
    gt = read_image(SHARED / "data" / "realsr" / "gt" / f"realsr_{name}.png")[None]
    assert psnr_y(restored, gt).item() == pytest.approx(float(published["PSNR"]), abs=1e-5)
    assert ssim_y(restored, gt).item() == pytest.approx(float(published["SSIM"]), abs=1e-5)


def test_ssim_equals_scikit_image() -> None:
    restored, gt = pair(0)
    x, y = ((rgb_to_y(quantize(i).double()) * 255).round()[0, 0].numpy() for i in (restored, gt))
    _, full = structural_similarity(
        x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert full[5:-5, 5:-5].min() > 0  # else the clipped contrast-structure term would differ
    assert ssim_y(restored, gt).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-10)


def test_psnr_of_a_known_error() -> None:
    gt = torch.full((1, 3, 16, 16), 100 / 255)
    restored = torch.full((1, 3, 16, 16), 110 / 255)
    luma = 10 * (65.481 + 128.553 + 24.966) / 255  # of 255
    assert psnr_y(restored, gt).item() == pytest.approx(20 * torch.tensor(255 / luma).log10().item(), abs=1e-3)


def test_equal_images_have_finite_scores() -> None:
    _, gt = pair(1)
    assert psnr_y(gt, gt).item() == pytest.approx(80.0)
    assert ssim_y(gt, gt).item() == pytest.approx(1.0)


def test_images_are_rounded_as_in_files() -> None:
    restored, gt = pair(2)
    assert torch.equal(psnr_y(restored, gt), psnr_y(quantize(restored), quantize(gt)))
    assert torch.equal(ssim_y(restored, gt), ssim_y(quantize(restored), quantize(gt)))


@pytest.mark.parametrize("metric", [PSNRY, SSIMY])
def test_batched_equals_unbatched(metric: type[PSNRY | SSIMY]) -> None:
    restored, gt = pair(3, batch=5)
    batched, single = metric(), metric()
    batched.update(restored, gt)
    for i in range(5):
        single.update(restored[i : i + 1], gt[i : i + 1])
    assert batched.compute().dtype == torch.float64
    assert batched.compute().item() == pytest.approx(single.compute().item(), abs=1e-12)
    assert batched.compute().item() == pytest.approx(batched.values(restored, gt).mean().item(), abs=1e-12)
    assert batched.higher_is_better


def test_images_count_equally_whatever_their_size() -> None:
    metric = PSNRY()
    scores = []
    for seed, size in ((4, (16, 16)), (5, (64, 48))):
        metric.update(*pair(seed, size))
        scores.append(psnr_y(*pair(seed, size)).item())
    assert metric.compute().item() == pytest.approx(sum(scores) / 2, abs=1e-12)


def test_bad_input_is_refused() -> None:
    restored, gt = pair(6)
    with pytest.raises(ValueError, match=r"one shape.*\(1, 3, 40, 33\) and \(1, 3, 38, 33\)"):
        PSNRY().update(restored, gt[:, :, :38])
    with pytest.raises(ValueError, match="not finite for image \\[0\\]"):
        PSNRY().update(restored * torch.nan, gt)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        SSIMY().update(restored[..., :8], gt[..., :8])
