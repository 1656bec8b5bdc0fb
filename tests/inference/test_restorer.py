"""Images of any size through small random networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ctsr_lightning.inference.devices import pick_device
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.settings import OWN_SIZE, OutputSize
from ctsr_lightning.inference.trajectory import RestorationError
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from helpers.small_students import make_student


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (5, 3), (16, 16), (23, 50)])
def test_any_size(tradeoff: TradeOff, size: tuple[int, int]) -> None:
    restored = Restorer(tradeoff, "cpu")(photo(*size), 0.5)
    assert restored.shape == (3, 4 * size[0], 4 * size[1])
    assert restored.min() >= 0
    assert restored.max() <= 1


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_any_scale(scale: int) -> None:
    restorer = Restorer(make_student(scale), "cpu")
    assert restorer(photo(13, 10)).shape == (3, 13 * scale, 10 * scale)


def test_equals_the_network_where_nothing_is_padded(tradeoff: TradeOff, student: OneStepStudent) -> None:
    lq = photo(16, 12)
    assert torch.equal(Restorer(tradeoff, "cpu")(lq, 0.7), tradeoff.restore(lq[None], 0.7)[0])
    assert torch.equal(Restorer(student, "cpu")(lq), student.restore(lq[None])[0])


def test_control_zero_is_stage_one(tradeoff: TradeOff) -> None:
    lq = photo(11, 9)
    both = Restorer(tradeoff, "cpu"), Restorer(tradeoff.student, "cpu")
    assert torch.equal(both[0](lq, 0.0), both[1](lq))


def test_a_list_shares_one_pass(tradeoff: TradeOff, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, lq, calls = Restorer(tradeoff, "cpu"), photo(8, 8), []
    shared = restorer.model.shared
    monkeypatch.setattr(restorer.model, "shared", lambda x, keys: calls.append(1) or shared(x, keys))
    low, high = restorer(lq, [0.0, 1.0])
    assert len(calls) == 1
    assert torch.equal(low, restorer(lq, 0.0))
    assert torch.equal(high, restorer(lq, 1.0))
    assert not torch.equal(low, high)


def test_a_constant_map_is_its_value(tradeoff: TradeOff) -> None:
    restorer, lq = Restorer(tradeoff, "cpu"), photo(7, 10)  # padded to 8 x 10
    torch.testing.assert_close(restorer(lq, torch.full((28, 40), 0.3)), restorer(lq, 0.3))


def test_a_map_acts_where_it_says(tradeoff: TradeOff) -> None:
    restorer, lq = Restorer(tradeoff, "cpu", tile=24), photo(48, 60)
    control = torch.zeros(192, 240)
    control[:, 120:] = 1.0
    mixed, low, high = restorer(lq, control), *restorer(lq, [0.0, 1.0])
    torch.testing.assert_close(mixed[..., :80], low[..., :80])
    torch.testing.assert_close(mixed[..., 160:], high[..., 160:])


def test_a_batch_is_its_images(tradeoff: TradeOff) -> None:
    restorer, images = Restorer(tradeoff, "cpu"), torch.stack([photo(6, 7, seed) for seed in (1, 2)])
    together = restorer(images, 0.5)
    torch.testing.assert_close(together, torch.stack([restorer(image, 0.5) for image in images]))


def test_same_input_same_bits_even_when_sampling(tradeoff: TradeOff) -> None:
    restorer, lq = Restorer(tradeoff, "cpu"), photo(9, 9)
    assert torch.equal(restorer(lq, 0.4), restorer(lq, 0.4))
    tradeoff.student.sample_latent = True
    encode = type(tradeoff.student.codec).encode
    codec = tradeoff.student.codec
    codec.encode = lambda image, sample=False: (
        (  # type: ignore[method-assign]
            z := encode(codec, image)
        )
        + (torch.randn_like(z) if sample else 0.0)
    )
    state = torch.random.get_rng_state()
    first = restorer(lq, 0.4)
    assert torch.equal(first, restorer(lq, 0.4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(first, Restorer(tradeoff, "cpu", seed=1)(lq, 0.4))


def test_what_fits_one_tile_is_untiled(tradeoff: TradeOff) -> None:
    lq = photo(30, 20)
    assert torch.equal(Restorer(tradeoff, "cpu", tile=32)(lq, 0.6), Restorer(tradeoff, "cpu", tile=0)(lq, 0.6))


class Local(nn.Module):
    """A UNet that sees 3 x 3 latents only, so that tiling can be compared with the whole."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = unet.config
        self.conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode="replicate")

    def forward(self, latent: torch.Tensor, *args) -> Local:
        self.sample = self.conv(latent)
        return self


@pytest.mark.parametrize("size", [(60, 90), (33, 129)])
def test_tiling_leaves_no_seam(tradeoff: TradeOff, size: tuple[int, int]) -> None:
    tradeoff.student.unet = Local(tradeoff.student.unet)
    tradeoff.velocity.unet = Local(tradeoff.velocity.unet)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 6, n) for n in size), indexing="ij")
    lq = torch.stack([torch.sin(rows), torch.cos(columns), torch.sin(rows + columns)]) * 0.4 + 0.5
    whole = Restorer(tradeoff, "cpu", tile=0)(lq, 0.5)
    tiled = Restorer(tradeoff, "cpu", tile=32)(lq, 0.5)
    assert not torch.equal(whole, tiled)
    assert (whole - tiled).abs().max() < 0.25 / 255  # a quarter of a grey level of 8 bits


def test_eight_bits_are_the_rounded_image(tradeoff: TradeOff) -> None:
    """Whole or in tiles, in colours of the input, at another size, between decoded ends."""
    lq = photo(50, 41)
    for options in ({}, {"tile": 24}, {"tile": 24, "color": "adain"}, {"space": "image"}):
        restorer = Restorer(tradeoff, "cpu", **options)
        path = restorer.trajectory(lq)
        for size in (OWN_SIZE, OutputSize(width=100)):
            levels = restorer.decode(path, 0.5, size, eight_bit=True)
            assert levels.dtype == torch.uint8
            assert torch.equal(levels, (restorer.decode(path, 0.5, size) * 255).round().byte())


@pytest.mark.parametrize("control", [-0.1, 1.01, math.nan, [0.5, 2.0], torch.tensor([[0.0, 1.5]])])
def test_control_out_of_range(tradeoff: TradeOff, control: object) -> None:
    with pytest.raises(ValueError, match=r"control t in \[0, 1\]"):
        Restorer(tradeoff, "cpu")(photo(4, 4), control)


def test_stage_one_knows_zero_only(student: OneStepStudent) -> None:
    restorer = Restorer(student, "cpu")
    assert not restorer.controllable
    with pytest.raises(ValueError, match=r"model without a slider.*found t = 0.5"):
        restorer(photo(4, 4), 0.5)


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (torch.zeros(4, 8, 8), "shape"),
        (torch.zeros(3, 0, 8), "shape"),
        (torch.zeros(8, 8), "shape"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "Divide bytes by 255"),
        (torch.full((3, 8, 8), 255.0), "from 255"),
        (torch.full((3, 8, 8), math.nan), "nan"),
    ],
)
def test_bad_images(tradeoff: TradeOff, image: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Restorer(tradeoff, "cpu")(image)


def test_a_map_of_another_size(tradeoff: TradeOff) -> None:
    with pytest.raises(ValueError, match=r"height and width \(32, 32\), found shape \(8, 8\)"):
        Restorer(tradeoff, "cpu")(photo(8, 8), torch.zeros(8, 8))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_results_that_are_not_finite(tradeoff: TradeOff, value: float) -> None:
    tradeoff.student.codec.decoder.bias.data.fill_(math.nan)
    with pytest.raises(RestorationError, match="NaN or infinite"):
        Restorer(tradeoff, "cpu")(photo(4, 4))
    tradeoff.velocity.head.bias.data.fill_(value)
    with pytest.raises(RestorationError, match="NaN or infinite"):
        Restorer(tradeoff, "cpu").trajectory(photo(4, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(tradeoff: TradeOff, dtype: torch.dtype) -> None:
    lq = photo(12, 12)
    expected = Restorer(tradeoff, "cpu")(lq, 0.5)
    restored = Restorer(tradeoff, "cpu", dtype)(lq, 0.5)
    assert restored.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(restored.float(), expected, rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-4)


def test_devices_and_tiles_that_are_not_there(student: OneStepStudent) -> None:
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}
    for name in ("nonsense", "cuda:63"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
            pick_device(name)
    with pytest.raises(ValueError, match="tile of 0"):
        Restorer(student, "cpu", tile=-1)
