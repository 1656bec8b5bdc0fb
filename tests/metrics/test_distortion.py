"""PSNR and SSIM against scikit-image, numpy, published scores and closed forms, and under batching."""

import csv

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ctsr_lightning.images import quantize, read_image, rgb_to_y
from ctsr_lightning.metrics.distortion import (
    PSNRRGB,
    PSNRY,
    SSIMY,
    PSNRRGBGTMean,
    psnr_rgb,
    psnr_rgb_gtmean,
    psnr_y,
    ssim_y,
)
from ctsr_lightning.metrics.named import metric_names, named_metrics
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


@pytest.mark.parametrize("metric", [PSNRY, SSIMY, PSNRRGB, PSNRRGBGTMean])
def test_batched_equals_unbatched(metric: type[PSNRY | SSIMY | PSNRRGB | PSNRRGBGTMean]) -> None:
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


def numpy_psnr(restored: torch.Tensor, gt: torch.Tensor, *, gtmean: bool) -> float:
    """PSNR on RGB as scripts of low-light papers take it, in numpy on (H, W, 3) arrays."""
    x, y = (np.rint(i[0].permute(1, 2, 0).numpy() * 255).astype(float) / 255 for i in (restored, gt))
    if gtmean:
        found, wanted = (0.299 * i[..., 0] + 0.587 * i[..., 1] + 0.114 * i[..., 2] for i in (x, y))
        x = np.clip(x * (wanted.mean() / found.mean()), 0, 1)
    return float(peak_signal_noise_ratio(y, x, data_range=1))


@pytest.mark.parametrize("dark", [1.0, 0.3, 0.02])
def test_rgb_equals_numpy(dark: float) -> None:
    restored, gt = pair(6)
    restored = restored * dark
    assert psnr_rgb(restored, gt).item() == pytest.approx(numpy_psnr(restored, gt, gtmean=False), abs=1e-4)
    assert psnr_rgb_gtmean(restored, gt).item() == pytest.approx(numpy_psnr(restored, gt, gtmean=True), abs=1e-4)


def test_rgb_of_a_known_error_in_one_channel() -> None:
    gt = torch.full((1, 3, 16, 16), 100 / 255)
    restored = gt.clone()
    restored[:, 2] += 30 / 255
    error = 30**2 / 3  # mean square in levels
    assert psnr_rgb(restored, gt).item() == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    gain = 100 / (100 + 0.114 * 30)
    error = (2 * (100 * gain - 100) ** 2 + (130 * gain - 100) ** 2) / 3
    assert psnr_rgb_gtmean(restored, gt).item() == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)


def test_gtmean_undoes_a_factor_unless_it_clips() -> None:
    levels = 4.0 * torch.randint(0, 64, (2, 3, 20, 20), generator=torch.Generator().manual_seed(7))
    gt, dark = levels / 255, levels / 4 / 255
    assert psnr_rgb_gtmean(dark, gt).tolist() == pytest.approx([80.0, 80.0])  # the bound of equal images
    assert bool((psnr_rgb(dark, gt) < 10.0).all())
    bright = (gt * 2).clamp(max=1.0)  # what was clipped does not come back
    assert bool((psnr_rgb_gtmean(bright, gt) < 30.0).all())


def test_black_stays_black() -> None:
    _, gt = pair(8)
    black = torch.zeros_like(gt)
    assert psnr_rgb_gtmean(black, gt).item() == pytest.approx(psnr_rgb(black, gt).item())
    assert psnr_rgb_gtmean(black, black).item() == pytest.approx(80.0)


def test_rgb_metrics_have_names_of_their_own() -> None:
    built, _ = named_metrics(metric_names("psnr,psnr_rgb,psnr_rgb_gtmean"))
    assert {name: type(metric) for name, metric in built.items()} == {
        "psnr_y": PSNRY,
        "psnr_rgb": PSNRRGB,
        "psnr_rgb_gtmean": PSNRRGBGTMean,
    }
    assert not {"psnr_rgb", "psnr_rgb_gtmean"} & set(metric_names("all"))  # tables of super-resolution take Y


@pytest.mark.reference
@pytest.mark.parametrize("name", ["22", "179"])
def test_rgb_of_dark_photographs_equals_numpy(name: str) -> None:
    folder = SHARED / "data" / "lol" / "eval15"
    if not folder.is_dir():
        pytest.skip("LOL's test pairs are not here")
    low, high = (read_image(folder / side / f"{name}.png")[None] for side in ("low", "high"))
    plain, scaled = psnr_rgb(low, high).item(), psnr_rgb_gtmean(low, high).item()
    assert plain == pytest.approx(numpy_psnr(low, high, gtmean=False), abs=1e-4)
    assert scaled == pytest.approx(numpy_psnr(low, high, gtmean=True), abs=1e-4)
    assert scaled > plain + 5.0  # most of the error of a dark photograph is its brightness
