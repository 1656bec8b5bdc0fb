"""Colours of the input: closed forms, SciPy as the oracle, and whole images that were restored in tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctsr_lightning.images import upsample
from ctsr_lightning.inference.color import FLAT, match_adain, match_wavelet
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models.tradeoff import TradeOff
from helpers.small_students import make_student

Match = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
both = pytest.mark.parametrize("match", [match_adain, match_wavelet])
sizes = pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (33, 20), (70, 81)])


def noise(
    *shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.mul_(high - low).add_(low).to(dtype)


def smooth(image: np.ndarray, levels: int) -> np.ndarray:
    """Low frequencies by SciPy: two convolutions with explicit zeros between the taps per level."""
    for level in range(levels):
        taps = np.zeros(2 * 2**level + 1)
        taps[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        for axis in (-2, -1):
            image = ndimage.convolve1d(image, taps, axis=axis, mode="nearest")
    return image


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adain_gives_the_moments_of_the_reference(dtype: torch.dtype) -> None:
    scales = torch.tensor([1.0, 0.5, 0.1], dtype=dtype).view(1, 3, 1, 1)
    image = noise(2, 3, 50, 41, low=0.3, high=0.7, dtype=dtype) * scales  # nothing will be clipped
    reference = noise(2, 3, 50, 41, low=0.35, high=0.6, seed=1, dtype=dtype)
    corrected, wanted = (x.double().numpy() for x in (match_adain(image, reference), reference))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(corrected.mean((2, 3)), wanted.mean((2, 3)), rtol=0, atol=tolerance)
    np.testing.assert_allclose(corrected.std((2, 3)), wanted.std((2, 3)), rtol=0, atol=tolerance)
    means, levels = image.mean((2, 3), keepdim=True).double().numpy(), image.double().numpy()
    slope = (corrected - wanted.mean((2, 3), keepdims=True)) / (levels - means)  # one gain per channel
    np.testing.assert_allclose(slope.min((2, 3)), slope.max((2, 3)), rtol=1e-2 if dtype == torch.float32 else 1e-8)


def test_adain_undoes_gain_and_offset() -> None:
    reference = noise(1, 3, 30, 20)
    gain, offset = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in ([0.2, 0.9, 0.5], [0.7, 0.0, 0.1]))
    torch.testing.assert_close(match_adain(reference * gain + offset, reference), reference, rtol=0, atol=1e-12)


def test_adain_is_the_published_fix_up_to_its_constant() -> None:
    """StableSR's and OSEDiff's statistics: sample deviations, 1e-5 added to both variances."""
    image, reference = noise(1, 3, 24, 24, high=0.6).numpy(), noise(1, 3, 24, 24, low=0.2, seed=1).numpy()
    (m_x, s_x), (m_r, s_r) = (
        (x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), ddof=1, keepdims=True) + 1e-5))
        for x in (image, reference)
    )
    published = np.clip((image - m_x) / s_x * s_r + m_r, 0.0, 1.0)
    ours = match_adain(torch.from_numpy(image), torch.from_numpy(reference)).numpy()
    np.testing.assert_allclose(ours, published, rtol=0, atol=1e-4)


def test_adain_of_constant_and_nearly_flat_channels() -> None:
    flat, textured = torch.full((1, 3, 8, 8), 0.3), noise(1, 3, 8, 8, seed=1, dtype=torch.float32)
    mean = textured.mean((2, 3), keepdim=True)
    torch.testing.assert_close(match_adain(flat, textured), mean.expand_as(flat))
    torch.testing.assert_close(match_adain(textured, flat), flat)
    torch.testing.assert_close(match_adain(flat, flat + 0.2), flat + 0.2)
    grain = 0.5 + 1e-4 * (noise(1, 3, 8, 8) - 0.5)
    corrected = match_adain(grain, textured.double())
    gain = textured.double().std((2, 3), correction=0) / FLAT
    torch.testing.assert_close(corrected.std((2, 3)), grain.std((2, 3)) * gain)
    assert corrected.std((2, 3)).max() < 0.01  # the grain is not blown up to the reference's contrast, 10 000 times
    fainter = 0.5 + (grain - 0.5) * 0.1  # but contrast is taken away exactly, and up to FLAT never overshoots
    torch.testing.assert_close(match_adain(grain, fainter), fainter, rtol=0, atol=1e-12)
    assert match_adain(fainter, grain).std() <= grain.std()


@sizes
@pytest.mark.parametrize("levels", [1, 5, 8])
def test_wavelet_is_the_details_of_one_on_the_low_frequencies_of_the_other(size: tuple[int, int], levels: int) -> None:
    image = noise(2, 3, *size, low=0.4, high=0.6)  # nothing is clipped
    reference = noise(2, 3, *size, low=0.3, high=0.7, seed=1)
    x, r = image.numpy(), reference.numpy()
    details = sum(smooth(x, k) - smooth(x, k + 1) for k in range(levels))
    corrected = match_wavelet(image, reference, levels)
    np.testing.assert_allclose(corrected.numpy(), details + smooth(r, levels), rtol=0, atol=1e-14)
    single = match_wavelet(image.float(), reference.float(), levels)
    torch.testing.assert_close(single, corrected.float(), rtol=0, atol=1e-6)


def test_wavelet_removes_tints_and_keeps_details() -> None:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    reference = torch.stack([rows, columns, rows + columns]).mul_(0.002).add_(0.2)[None]
    checks = torch.where((rows + columns) % 2 == 0, 0.05, -0.05)
    tint = torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    corrected = match_wavelet(reference + tint + checks, reference)
    inside = (..., slice(40, -40), slice(40, -40))  # borders reach 31 pixels in
    torch.testing.assert_close(corrected[inside], (reference + checks)[inside])
    torch.testing.assert_close(match_wavelet(reference + tint, reference), reference)
    torch.testing.assert_close(match_wavelet(reference, reference + checks)[inside], reference[inside])


@both
@sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_with_the_right_colours_is_left_alone(match: Match, size: tuple[int, int], dtype: torch.dtype) -> None:
    image = noise(2, 3, *size, dtype=dtype)
    assert torch.equal(match(image, image.clone()), image)


@both
def test_a_single_pixel_takes_the_colour(match: Match) -> None:
    image, reference = noise(2, 3, 1, 1), noise(2, 3, 1, 1, seed=1)
    torch.testing.assert_close(match(image, reference), reference)


@both
def test_ranges_types_greys_and_batches(match: Match) -> None:
    image, reference = noise(2, 3, 16, 16).round(), noise(2, 3, 16, 16, seed=1).round()
    kept = image.clone(), reference.clone()
    corrected = match(image, reference)
    assert corrected.min() == 0.0
    assert corrected.max() == 1.0
    assert torch.equal(image, kept[0])
    assert torch.equal(reference, kept[1])
    for i in (0, 1):
        torch.testing.assert_close(match(image[i : i + 1], reference[i : i + 1])[0], corrected[i], rtol=0, atol=1e-12)
    grey = match(noise(1, 1, 16, 16).expand(1, 3, -1, -1), noise(1, 1, 16, 16, seed=1).expand(1, 3, -1, -1))
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    half = match(noise(1, 3, 16, 16).bfloat16(), noise(1, 3, 16, 16, seed=1).float())
    assert half.dtype == torch.bfloat16
    exact = match(noise(1, 3, 16, 16).bfloat16().float(), noise(1, 3, 16, 16, seed=1).float())
    torch.testing.assert_close(half, exact.bfloat16())
    crops = match(image[..., 2:9, 3:15], reference[..., 2:9, 3:15])
    assert torch.equal(crops, match(image[..., 2:9, 3:15].clone(), reference[..., 2:9, 3:15].clone()))
    assert not match(image.requires_grad_(), reference).requires_grad


@both
@pytest.mark.parametrize(
    ("image", "reference", "message"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2), r"\(1, 3, 8, 8\) and \(1, 3, 2, 2\). Enlarge the input"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), r"one shape \(B, 3, H, W\)"),
        (torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), r"one shape \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 0, 8), torch.zeros(1, 3, 0, 8), r"one shape \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "Divide bytes by 255"),
    ],
)
def test_what_is_no_pair_is_refused(match: Match, image: torch.Tensor, reference: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match(image, reference)


def test_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="one or more levels of wavelets, found 0"):
        match_wavelet(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), 0)


@pytest.mark.parametrize(("color", "match"), [("adain", match_adain), ("wavelet", match_wavelet)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_restored_images_are_corrected_as_a_whole(
    tradeoff: TradeOff, color: str, match: Match, dtype: torch.dtype
) -> None:
    """In tiles, at every t and for a map of it, sizes that the networks pad included."""
    lq = noise(2, 3, 20, 17, low=0.2, high=0.6, dtype=torch.float32)
    reference = upsample(lq.to(torch.promote_types(dtype, torch.float32)), 4)
    control = torch.linspace(0, 1, 68).expand(80, 68)
    plain, corrected = (Restorer(tradeoff, "cpu", dtype, tile=16, color=c) for c in ("none", color))
    for t in (0.6,) if dtype == torch.bfloat16 else (0.0, 0.6, 1.0, control):  # slow where it is emulated
        image, found = plain(lq, t), corrected(lq, t)
        assert torch.equal(found, match(image, reference))
        assert (found - image).abs().max() > 0.02
    single = corrected(lq[0], [0.0, 1.0])
    assert [x.shape for x in single] == [(3, 80, 68)] * 2
    assert torch.equal(single[1], match(plain(lq[:1], 1.0), reference[:1])[0])


def test_no_correction_is_the_default_and_can_change_between_decodes(tradeoff: TradeOff) -> None:
    restorer, lq = Restorer(tradeoff, "cpu"), noise(1, 3, 9, 14, dtype=torch.float32)
    assert restorer.color == "none"
    trajectory = restorer.trajectory(lq)
    plain = restorer.decode(trajectory, 0.5)
    assert torch.equal(plain, tradeoff_decode(restorer, lq))
    restorer.color = "wavelet"
    assert torch.equal(restorer.decode(trajectory, 0.5), match_wavelet(plain, upsample(lq, 4)))
    restorer.color = "none"
    assert torch.equal(restorer.decode(trajectory, 0.5), plain)


def tradeoff_decode(restorer: Restorer, lq: torch.Tensor) -> torch.Tensor:
    """The model's own answer, cut to size."""
    assert isinstance(restorer.model, TradeOff)
    trajectory = restorer.trajectory(lq)
    with torch.no_grad():
        image = restorer.model.at(trajectory.state, 0.5)
    return image[..., : trajectory.size[0], : trajectory.size[1]]


@pytest.mark.parametrize("scale", [1, 3])
def test_any_scale_of_stage_one(scale: int) -> None:
    student, lq = make_student(scale), noise(1, 3, 13, 10, low=0.3, high=0.6, dtype=torch.float32)
    image = Restorer(student, "cpu")(lq)
    assert torch.equal(Restorer(student, "cpu", color="adain")(lq), match_adain(image, upsample(lq, scale)))


def test_corrections_that_are_not_there(tradeoff: TradeOff) -> None:
    with pytest.raises(ValueError, match="one of none, adain, wavelet as colour correction, found 'sepia'"):
        Restorer(tradeoff, "cpu", color="sepia")
