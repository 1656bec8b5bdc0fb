"""Tiles that are normalised by the statistics of the whole image."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.inference.tiling import Window, blend, windows
from ctsr_lightning.inference.whole_statistics import WholeStatistics
from helpers import tiny


class Network(nn.Module):
    """Two pointwise convolutions, each after a group normalisation: with equal statistics a tile is cut out exactly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.GroupNorm(2, 4), nn.GroupNorm(1, 6)
        self.body, self.head = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)
        for norm in (self.first, self.second):
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.body(self.first(x)))))


def scene(height: int = 48, width: int = 64) -> Tensor:
    """Features whose mean and contrast change from left to right."""
    noise = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.linspace(0, 1, width, dtype=torch.float64)
    return noise * (0.5 + slope) + 2 * slope


@torch.no_grad()
def test_tiles_are_normalised_alike() -> None:
    network, x = Network().double(), scene()
    cover = windows(48, 64, 24)
    whole = network(x)
    alone = blend(cover, lambda w: network(w.crop(x)))
    alike = WholeStatistics(network).blend(cover, lambda w: network(w.crop(x)))
    error, before = ((image - whole).square().mean().sqrt() for image in (alike, alone))
    assert error < 0.15 * whole.std()
    assert error < 0.3 * before


@torch.no_grad()
def test_statistics_of_tiles_that_cover_once_are_those_of_the_whole() -> None:
    """One layer, four tiles beside each other: means of moments are the moments of the whole, exactly."""
    norm, x = nn.GroupNorm(2, 4).double(), scene(32, 32)
    cover = [Window(top, left, 16, 16) for top in (0, 16) for left in (0, 16)]
    alike = WholeStatistics(norm).blend(cover, lambda w: norm(w.crop(x)))
    torch.testing.assert_close(alike, norm(x))


@torch.no_grad()
def test_images_of_a_batch_have_statistics_of_their_own() -> None:
    network, x = Network().double(), torch.cat([scene(), scene().flip(-1) * 0.3 + 1])
    cover, statistics = windows(48, 64, 24), WholeStatistics(network)
    both = statistics.blend(cover, lambda w: network(w.crop(x)))
    for i in (0, 1):
        one = x[i : i + 1]
        torch.testing.assert_close(both[i : i + 1], statistics.blend(cover, lambda w, one=one: network(w.crop(one))))


@pytest.mark.parametrize(("count", "expected"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (5, {0, 2, 4}), (9, {1, 4, 7})])
def test_a_sample_is_evenly_spread(count: int, expected: set[int]) -> None:
    cover = [Window(top, left, 1, 1) for top in range(count) for left in range(2)]
    sample = WholeStatistics(nn.GroupNorm(1, 1)).sample(cover)
    assert {window.top for window in sample} == expected
    assert len(sample) == 2 * len(expected)


@torch.no_grad()
def test_a_single_tile_is_the_whole() -> None:
    network, x, calls = Network().double(), scene(), []
    statistics = WholeStatistics(network)
    cover = windows(48, 64, 0)
    assert torch.equal(statistics.blend(cover, lambda w: calls.append(1) or network(w.crop(x))), network(x))
    assert len(calls) == statistics.passes(cover) == 1


@torch.no_grad()
def test_every_pass_is_counted_and_the_network_is_left_as_it_was() -> None:
    network, x, calls, done = Network().double(), scene(), [], []
    before, statistics, cover = network(x), WholeStatistics(network), windows(48, 64, 16)
    statistics.blend(cover, lambda w: calls.append(1) or network(w.crop(x)), Fraction(1), lambda: done.append(1))
    assert len(calls) == len(done) == statistics.passes(cover) == len(cover) + 9
    assert torch.equal(network(x), before)

    def broken(window: Window) -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        statistics.blend(cover, broken)
    assert torch.equal(network(x), before)


def test_networks_without_group_normalisation_run_once() -> None:
    assert WholeStatistics(nn.Conv2d(3, 3, 1)).passes(windows(48, 64, 16)) == len(windows(48, 64, 16))


@torch.no_grad()
def test_a_decoder_with_random_weights_is_closer_to_untiled() -> None:
    """The KL decoder, whose tiles differ in level: the steps between them shrink."""
    codec = KLCodec(tiny.autoencoder()).double().eval()
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, codec.channels, 24, 48, generator=generator, dtype=torch.float64)
    latent += torch.linspace(-1, 1, 48, dtype=torch.float64)
    whole, cover = codec.decode(latent), windows(24, 48, 16)
    alone = blend(cover, lambda w: codec.decode(w.crop(latent)), Fraction(4))
    alike = WholeStatistics(codec).blend(cover, lambda w: codec.decode(w.crop(latent)), Fraction(4))
    coarse = [nn.functional.avg_pool2d(image - whole, 16).abs().max() for image in (alike, alone)]
    assert coarse[0] < 0.75 * coarse[1]
    assert (alike - whole).square().mean() < 0.5 * (alone - whole).square().mean()
