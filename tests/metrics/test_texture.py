"""The stand-in for LPIPS: its formula, and that it sees what it should."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.metrics.texture import FLOOR, TextureDistance, local_mean, responses


@pytest.fixture
def texture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, 48, 40, generator=generator)
    return F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def test_equal_images_are_at_distance_zero(texture: torch.Tensor) -> None:
    torch.testing.assert_close(TextureDistance()(texture, texture), torch.zeros(2), atol=1e-6, rtol=0)


def test_it_is_symmetric_and_bounded(texture: torch.Tensor) -> None:
    distance, other = TextureDistance(), texture.flip(-1)
    torch.testing.assert_close(distance(texture, other), distance(other, texture))
    assert bool((distance(texture, 1.0 - texture) <= 1.5).all())


@pytest.mark.parametrize("impair", ["blur", "noise", "shift"])
def test_more_impairment_is_further_away(texture: torch.Tensor, impair: str) -> None:
    def impaired(strength: float) -> torch.Tensor:
        if impair == "blur":
            blurred = F.avg_pool2d(F.pad(texture, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
            return (1 - strength) * texture + strength * blurred
        if impair == "noise":
            return texture + 0.2 * strength * torch.randn(texture.shape, generator=torch.Generator().manual_seed(1))
        return (1 - strength) * texture + strength * texture.roll(2, dims=-1)

    values = [TextureDistance()(impaired(s), texture).mean().item() for s in (0.0, 0.3, 0.6, 1.0)]
    assert values == sorted(values)
    assert values[-1] > 0.1


def test_it_follows_its_formula() -> None:
    """One scale and direction by hand, in float64 NumPy."""
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    a = responses(x)[0][0, 0].numpy()
    signed = np.pad(2 * x[0, 0].numpy() - 1, 1, mode="reflect")
    expected = 2 * signed[1:-1, 1:-1] - signed[:-2, 1:-1] - signed[2:, 1:-1]
    np.testing.assert_allclose(a, expected, atol=1e-12)
    y = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    parts = []
    for one, other in zip(responses(x), responses(y), strict=True):
        p, q = one.numpy()[0], other.numpy()[0]

        def windowed(z: np.ndarray) -> np.ndarray:
            padded = np.pad(z, ((0, 0), (2, 2), (2, 2)))
            view = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
            return view.mean(axis=(-1, -2))

        u, v, w = windowed(p * p) + FLOOR, windowed(q * q) + FLOOR, windowed(p * q) + FLOOR
        parts.append(np.mean(0.5 * (1 - 2 * np.sqrt(u * v) / (u + v)) + 0.5 * (1 - w / np.sqrt(u * v))))
    assert TextureDistance()(x, y).item() == pytest.approx(np.mean(parts), rel=1e-10)


def test_its_gradient_restores_missing_texture(texture: torch.Tensor) -> None:
    """A step against the gradient at a blurred image raises the strength of its texture."""
    blurred = F.avg_pool2d(F.pad(texture, (2, 2, 2, 2), mode="reflect"), 5, stride=1).requires_grad_()
    TextureDistance()(blurred, texture).sum().backward()
    assert blurred.grad is not None
    stepped = blurred.detach() - 0.05 * blurred.grad / blurred.grad.abs().max()

    def strength(image: torch.Tensor) -> float:
        return local_mean(responses(image)[0].square()).mean().item()

    assert strength(stepped) > strength(blurred.detach())


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12 pixels"):
        TextureDistance()(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
