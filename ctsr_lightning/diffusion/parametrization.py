"""Parametrizations of a denoiser (ε, z_0, v), and the closed forms between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "sample", "v_prediction"]
"""The noise ε, the clean latent z_0, or v = √ᾱ ε - √(1-ᾱ) z_0 (names as in diffusers)."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """At least float32: near t = 999 the closed forms amplify rounding by 1/√ᾱ = 14.6."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def clean_from_noise(noisy: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """One-step estimate of the clean latent: ẑ_0 = (z_t - √(1-ᾱ) ε) / √ᾱ, in float32 or better.

    Args:
        noisy: z_t, shape (B, C, h, w).
        noise: ε or its prediction.
        alpha_bar: ᾱ_t, broadcastable.
    """
    return (at_least_float32(noisy) - (1.0 - alpha_bar).sqrt() * at_least_float32(noise)) / alpha_bar.sqrt()


def noise_from_clean(noisy: Tensor, clean: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise that a clean latent implies: ε = (z_t - √ᾱ z_0) / √(1-ᾱ), in float32 or better.

    Args:
        noisy: z_t, shape (B, C, h, w).
        clean: z_0 or its prediction.
        alpha_bar: ᾱ_t, broadcastable.
    """
    return (at_least_float32(noisy) - alpha_bar.sqrt() * at_least_float32(clean)) / (1.0 - alpha_bar).sqrt()


def signal_to_noise(alpha_bar: Tensor) -> Tensor:
    """SNR_t = ᾱ_t / (1-ᾱ_t)."""
    return alpha_bar / (1.0 - alpha_bar)


def min_snr(snr: Tensor, clip: float | None) -> Tensor:
    """Weight of a clean latent's squared error: min(SNR, clip) (min-SNR weighting; Hang et al., 2023).

    Unclipped it is the weight that the same error has in the noise, ‖ε - ε'‖² = SNR ‖z_0 - z_0'‖², which grows without
    bound towards noise-free latents.

    Args:
        snr: Signal-to-noise ratios, any shape.
        clip: Upper limit; None for none.
    """
    return snr if clip is None else snr.clamp(max=clip)


def implied_noise(noise: Tensor, clean: Tensor, predicted: Tensor, weight: Tensor) -> Tensor:
    """The noise that a prediction of the clean latent implies: ε̂ = ε + √weight (z_0 - ẑ_0), in float32 or better.

    With weight SNR it is (z_t - √ᾱ ẑ_0) / √(1-ᾱ), the same as `noise_from_clean`.

    Args:
        noise: ε, which z_0 was noised with, shape (B, C, h, w).
        clean: z_0.
        predicted: ẑ_0.
        weight: SNR, or less to limit the error's weight; broadcastable.
    """
    return at_least_float32(noise) + weight.sqrt() * (at_least_float32(clean) - at_least_float32(predicted))


def to_clean(output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Turn a network's output into ẑ_0.

    Args:
        output: The network's output.
        noisy: Its input z_t.
        alpha_bar: ᾱ_t, broadcastable.
        prediction: Its parametrization.
    """
    if prediction == "epsilon":
        return clean_from_noise(noisy, output, alpha_bar)
    if prediction == "sample":
        return at_least_float32(output)
    return alpha_bar.sqrt() * at_least_float32(noisy) - (1.0 - alpha_bar).sqrt() * at_least_float32(output)


def to_noise(output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Turn a network's output into ε̂; arguments as in `to_clean`."""
    if prediction == "epsilon":
        return at_least_float32(output)
    if prediction == "sample":
        return noise_from_clean(noisy, output, alpha_bar)
    return (1.0 - alpha_bar).sqrt() * at_least_float32(noisy) + alpha_bar.sqrt() * at_least_float32(output)


def training_target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Training target of a network: ε, z_0 or v.

    Args:
        clean: z_0.
        noise: ε.
        alpha_bar: ᾱ_t, broadcastable.
        prediction: Its parametrization.
    """
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    return alpha_bar.sqrt() * noise - (1.0 - alpha_bar).sqrt() * clean
