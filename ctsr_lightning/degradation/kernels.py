"""Blur kernels of the Real-ESRGAN degradation, from their formulas.

All kernels are (k, k) float64 tensors with k odd, sum 1 and the point symmetry K(-u) = K(u), so that correlation
and convolution agree. With u = (x, y) the offset from the centre in pixels and

    Sigma = R diag(sigma_x^2, sigma_y^2) R^T,    q(u) = u^T Sigma^-1 u,

where R turns the x axis by `rotation` radians, the families are (BSRGAN, Zhang et al. 2021, section 4.1; Real-ESRGAN,
Wang et al. 2021, section 3.1):

    gaussian              exp(-q / 2)
    generalized gaussian  exp(-q^beta / 2)
    plateau               1 / (1 + q^beta)

The isotropic member of each has sigma_x = sigma_y. The sinc kernel is the ideal circular low-pass filter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float | None = None, rotation: float = 0.0) -> Tensor:
    """Gaussian kernel exp(-q / 2), shape (size, size).

    Args:
        size: Side length in pixels, odd.
        sigma_x: Standard deviation along the first principal axis, in pixels.
        sigma_y: Standard deviation along the second; None makes the kernel isotropic.
        rotation: Angle of the first principal axis in radians, from x (columns) towards y (rows).
    """
    return _normalised(torch.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation)))


def generalized_gaussian_kernel(
    size: int, beta: float, sigma_x: float, sigma_y: float | None = None, rotation: float = 0.0
) -> Tensor:
    """Generalized Gaussian kernel exp(-q^beta / 2), shape (size, size): peaked for beta < 1, flat for beta > 1.

    Args:
        size: Side length in pixels, odd.
        beta: Shape exponent, positive; 1 is the Gaussian.
        sigma_x: Scale along the first principal axis, in pixels.
        sigma_y: Scale along the second; None makes the kernel isotropic.
        rotation: Angle of the first principal axis in radians.
    """
    distance = _squared_distance(size, sigma_x, sigma_y, rotation)
    return _normalised(torch.exp(-0.5 * distance.pow(_positive(beta, "beta"))))


def plateau_kernel(
    size: int, beta: float, sigma_x: float, sigma_y: float | None = None, rotation: float = 0.0
) -> Tensor:
    """Plateau kernel 1 / (1 + q^beta), shape (size, size).

    Args:
        size: Side length in pixels, odd.
        beta: Shape exponent, positive; the larger, the steeper the edge of the plateau.
        sigma_x: Half-height radius along the first principal axis, in pixels.
        sigma_y: Half-height radius along the second; None makes the kernel isotropic.
        rotation: Angle of the first principal axis in radians.
    """
    distance = _squared_distance(size, sigma_x, sigma_y, rotation)
    return _normalised(1.0 / (1.0 + distance.pow(_positive(beta, "beta"))))


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Circular low-pass kernel, shape (size, size); it rings, as over-sharpened and re-compressed photos do.

    The inverse Fourier transform of a disc of radius `cutoff`, cut to `size` pixels
    (Real-ESRGAN, Eq. 6, with J_1 the Bessel function of the first kind):

        K(u) = cutoff / (2 pi |u|) J_1(cutoff |u|),    K(0) = cutoff^2 / (4 pi).

    Args:
        size: Side length in pixels, odd.
        cutoff: Radius of the pass band in radians per pixel, in (0, pi].
    """
    if not 0.0 < cutoff <= math.pi:
        raise ValueError(f"Expected a cut-off in (0, pi] radians per pixel, found {cutoff}.")
    x, y = _offsets(size)
    radius = torch.hypot(x, y)
    centre = size // 2
    radius[centre, centre] = 1.0  # avoids 0 / 0; the limit is written below
    # PyTorch's J_1 is good to 5e-7, far below the eight bits that a filtered image is rounded to.
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2.0 * math.pi * radius)
    kernel[centre, centre] = cutoff**2 / (4.0 * math.pi)
    return _normalised(kernel)


def _offsets(size: int) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical offsets from the centre, each (size, size) float64."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"Expected an odd kernel size, found {size}.")
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    return axis.expand(size, size).clone(), axis[:, None].expand(size, size).clone()


def _squared_distance(size: int, sigma_x: float, sigma_y: float | None, rotation: float) -> Tensor:
    """q(u) = u^T Sigma^-1 u, by turning u into the principal axes."""
    x, y = _offsets(size)
    cos, sin = math.cos(rotation), math.sin(rotation)
    along = (cos * x + sin * y) / _positive(sigma_x, "sigma_x")
    across = (cos * y - sin * x) / _positive(sigma_x if sigma_y is None else sigma_y, "sigma_y")
    return along.square() + across.square()


def _positive(value: float, name: str) -> float:
    if value <= 0.0:
        raise ValueError(f"Expected a positive {name}, found {value}.")
    return value


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
