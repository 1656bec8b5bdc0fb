"""Operators against SciPy, OpenCV, Pillow and NumPy."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from ctsr_lightning.degradation import operators
from ctsr_lightning.degradation.kernels import gaussian_kernel, sinc_kernel
from ctsr_lightning.degradation.operators import filter2d, gaussian_noise, jpeg, poisson_noise, resize, usm_sharpen
from ctsr_lightning.images import to_uint8


def _photo(batch=2, height=40, width=52, seed=0):
    """Smooth structure with some texture, so that no operator is trivial on it."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(batch, 3, height, width, generator=generator)
    smooth = torch.from_numpy(ndimage.gaussian_filter(rough.numpy(), (0, 0, 3, 3)))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (0.9 * smooth + 0.1 * rough).clamp(0, 1)


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_filter2d_is_scipy_correlation_with_each_images_kernel():
    image = _photo()
    kernels = torch.stack([gaussian_kernel(21, 2.5, 0.9, 0.7), sinc_kernel(21, 1.3)])
    result = filter2d(image, kernels)
    for b in range(2):
        for c in range(3):
            expected = ndimage.correlate(image[b, c].double().numpy(), kernels[b].numpy(), mode="mirror")
            np.testing.assert_allclose(result[b, c], expected, atol=2e-6)
    np.testing.assert_array_equal(result[1:], filter2d(image[1:], kernels[1]))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 30), (11, 11)])
def test_padding_reflects_images_smaller_than_the_kernel(size):
    image = torch.rand(1, 3, *size, generator=_seeded())
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (10, 10), (10, 10)), mode="reflect")
    np.testing.assert_array_equal(operators.reflect_pad(image, 10), expected)
    assert filter2d(image, gaussian_kernel(21, 2.0)).shape == image.shape


@pytest.mark.parametrize("size", [(20, 26), (80, 104), (13, 31)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_is_opencv_without_antialiasing(mode, size):
    image = _photo(batch=1)
    flag = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[mode]
    expected = cv2.resize(image[0].permute(1, 2, 0).numpy(), (size[1], size[0]), interpolation=flag)
    np.testing.assert_allclose(resize(image, size, mode)[0].permute(1, 2, 0), expected, atol=1e-4)


def test_area_averages_blocks():
    image = _photo(batch=1)
    expected = image.view(1, 3, 10, 4, 13, 4).mean(dim=(3, 5))
    np.testing.assert_allclose(resize(image, (10, 13), "area"), expected, atol=1e-6)


def test_resize_to_the_same_size_changes_nothing():
    image = _photo()
    assert all(resize(image, (40, 52), mode) is image for mode in operators.RESIZE_MODES)


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_its_standard_deviation(grey):
    image = torch.full((1, 3, 200, 200), 0.5)
    noise = gaussian_noise(image, 20.0, grey=grey, generator=_seeded()) - image
    assert float(noise.std()) == pytest.approx(20.0 / 255.0, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=2e-3)
    assert stats.kstest(noise[0, 0].flatten().numpy(), stats.norm(0, 20.0 / 255.0).cdf).pvalue > 1e-3
    between = np.corrcoef(noise[0, 0].flatten(), noise[0, 1].flatten())[0, 1]
    assert between == pytest.approx(1.0 if grey else 0.0, abs=0.02)


def test_noise_is_clipped():
    image = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)])
    for noisy in (
        gaussian_noise(image, 30.0, grey=False, generator=_seeded()),
        poisson_noise(image, 3.0, grey=False, generator=_seeded()),
    ):
        assert noisy.min() >= 0.0
        assert noisy.max() <= 1.0


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_is_scipys_quantile_function(grey):
    image = _photo(batch=1) * 0.6 + 0.2  # away from the ends, so that clipping does not hide the noise
    noisy = poisson_noise(image, 0.5, grey=grey, generator=_seeded(3))

    source = image.double().numpy()
    if grey:
        source = np.tensordot([0.2989, 0.587, 0.114], source, (0, 1))[:, None]
    levels = np.round(source * 255)
    photons = 2 ** math.ceil(math.log2(len(np.unique(levels))))
    uniform = torch.rand(levels.shape, generator=_seeded(3), dtype=torch.float64).numpy()
    counts = stats.poisson.ppf(uniform, photons * levels / 255)
    expected = np.clip(image.numpy() + 0.5 * (counts / photons - levels / 255), 0, 1)
    np.testing.assert_allclose(noisy, expected, atol=1e-6)


def test_poisson_noise_has_the_variance_of_shot_noise():
    # 128 levels in the image, all of them next to 0.5: V = 128.
    image = torch.full((1, 3, 300, 300), 128 / 255)
    image[0, 0, 0, :128] = torch.arange(64, 192) / 255
    noise = (poisson_noise(image, 1.0, grey=False, generator=_seeded()) - image)[0, 1]
    assert float(noise.var()) == pytest.approx(128 / 255 / 128, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0.0, abs=1e-3)


def test_poisson_noise_survives_black_and_one_level():
    black = torch.zeros(1, 3, 8, 8)
    np.testing.assert_array_equal(poisson_noise(black, 3.0, grey=True, generator=_seeded()), black)


def test_jpeg_is_pillows_with_each_images_quality():
    image = _photo(batch=3)
    result = jpeg(image, [30, 75, 95])
    for one, quality, decoded in zip(image, [30, 75, 95], result, strict=True):
        file = io.BytesIO()
        Image.fromarray(to_uint8(one)).save(file, "JPEG", quality=quality)
        np.testing.assert_array_equal(to_uint8(decoded), np.asarray(Image.open(file)))
    error = [(result[i] - image[i]).abs().mean() for i in range(3)]
    assert error[0] > error[1] > error[2] > 0


def test_jpeg_is_near_opencvs():
    image = _photo(batch=1)
    _, file = cv2.imencode(".jpg", to_uint8(image[0])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    expected = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(to_uint8(jpeg(image, [60])[0]).astype(int) - expected).max() <= 2


def test_usm_is_opencvs():
    image = _photo(batch=1, height=70, width=90)
    pixels = image[0].permute(1, 2, 0).double().numpy()

    def blur(x):
        return cv2.GaussianBlur(x, (51, 51), 0, borderType=cv2.BORDER_REFLECT_101)

    residual = pixels - blur(pixels)
    mask = blur((np.abs(residual) * 255 > 10).astype(np.float64))
    expected = mask * np.clip(pixels + 0.5 * residual, 0, 1) + (1 - mask) * pixels
    np.testing.assert_allclose(usm_sharpen(image)[0].permute(1, 2, 0), expected, atol=1e-5)


def test_usm_leaves_flat_regions_alone():
    image = torch.full((1, 3, 60, 60), 0.3)
    np.testing.assert_allclose(usm_sharpen(image), image, atol=1e-6)
