"""Kernels against float64 NumPy written from the formulas."""

import math

import numpy as np
import pytest
from scipy.special import j1

from ctsr_lightning.degradation.kernels import (
    gaussian_kernel,
    generalized_gaussian_kernel,
    plateau_kernel,
    sinc_kernel,
)


def _quadratic_form(size, sigma_x, sigma_y, rotation):
    """u^T Sigma^-1 u with the covariance matrix inverted numerically."""
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    axis = np.arange(size) - size // 2
    u = np.stack(np.meshgrid(axis, axis), axis=-1)
    return np.einsum("hwi,ij,hwj->hw", u, inverse, u)


SHAPES = [(7, 0.2, 0.2, 0.0), (13, 1.5, 1.5, 0.0), (21, 3.0, 0.7, 0.4), (21, 0.5, 2.9, -2.6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.7])
@pytest.mark.parametrize("family", ["gaussian", "generalized", "plateau"])
def test_kernel_is_its_formula(family, beta, shape):
    size, sigma_x, sigma_y, rotation = shape
    q = _quadratic_form(*shape)
    if family == "gaussian":
        kernel, expected = gaussian_kernel(*shape), np.exp(-q / 2)
    elif family == "generalized":
        kernel = generalized_gaussian_kernel(size, beta, sigma_x, sigma_y, rotation)
        expected = np.exp(-(q**beta) / 2)
    else:
        kernel, expected = plateau_kernel(size, beta, sigma_x, sigma_y, rotation), 1 / (1 + q**beta)
    np.testing.assert_allclose(kernel.numpy(), expected / expected.sum(), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(kernel.sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(kernel, kernel.flip(0, 1), rtol=1e-12)


def test_isotropic_is_the_anisotropic_of_equal_sigmas():
    np.testing.assert_array_equal(gaussian_kernel(15, 1.7), gaussian_kernel(15, 1.7, 1.7, rotation=0.0))
    np.testing.assert_allclose(plateau_kernel(15, 1.3, 1.7), plateau_kernel(15, 1.3, 1.7, 1.7, 0.9), rtol=1e-12)


def test_second_moments_are_the_covariance():
    # Sigmas large against a pixel and small against the kernel: sampling and truncation leave 1e-6.
    sigma_x, sigma_y, rotation = 2.0, 1.2, 0.6
    kernel = gaussian_kernel(41, sigma_x, sigma_y, rotation).numpy()
    axis = np.arange(41) - 20
    x, y = np.meshgrid(axis, axis)
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    np.testing.assert_allclose(moments, turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T, atol=1e-6)


def test_generalized_gaussian_of_beta_one_is_the_gaussian():
    expected = gaussian_kernel(9, 1.1, 0.8, 0.3)
    np.testing.assert_allclose(generalized_gaussian_kernel(9, 1.0, 1.1, 0.8, 0.3), expected, rtol=1e-12)


@pytest.mark.parametrize(("size", "cutoff"), [(7, math.pi / 3), (21, math.pi / 5), (21, math.pi)])
def test_sinc_is_its_formula(size, cutoff):
    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    with np.errstate(invalid="ignore"):
        expected = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    expected[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    np.testing.assert_allclose(sinc_kernel(size, cutoff), expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("cutoff", [math.pi / 4, math.pi / 2, 0.8 * math.pi])
def test_sinc_passes_the_disc_below_its_cutoff(cutoff):
    spectrum = np.abs(np.fft.fft2(sinc_kernel(201, cutoff).numpy(), s=(512, 512)))
    frequency = 2 * np.pi * np.fft.fftfreq(512)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    assert spectrum[radius < 0.9 * cutoff].min() > 0.9
    assert spectrum[(radius > 1.1 * cutoff) & (radius < np.pi)].max() < 0.1
    # The middle of the edge lies at the cut-off.
    edge = radius[(np.abs(spectrum - 0.5) < 0.2) & (radius < np.pi)]
    assert edge.mean() == pytest.approx(cutoff, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian_kernel(8, 1.0), "odd kernel size, found 8"),
        (lambda: gaussian_kernel(7, 0.0), "positive sigma_x, found 0.0"),
        (lambda: plateau_kernel(7, -1.0, 1.0), "positive beta, found -1.0"),
        (lambda: sinc_kernel(7, 4.0), "cut-off in"),
    ],
)
def test_impossible_kernels_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
