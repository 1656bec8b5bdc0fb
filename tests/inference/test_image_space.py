"""Control in the image's space: x(t) = (1 - t) x(0) + t x(1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models.student import OneStepStudent
from ctsr_lightning.models.tradeoff import TradeOff
from helpers.small_flow import SmallFlow


def photo(height: int = 9, width: int = 7) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def test_ends_are_those_of_the_latent_path(tradeoff: TradeOff) -> None:
    lq, latent, image = photo(), Restorer(tradeoff, "cpu"), Restorer(tradeoff, "cpu", space="image")
    low, high = latent(lq, [0.0, 1.0])
    assert torch.equal(image(lq, 0.0), low)
    assert torch.equal(image(lq, 1.0), high)
    torch.testing.assert_close(image(lq, 0.25), 0.75 * low + 0.25 * high)
    assert not torch.equal(image(lq, 0.25), latent(lq, 0.25))


def test_a_map_mixes_pixels(tradeoff: TradeOff) -> None:
    lq, restorer = photo(), Restorer(tradeoff, "cpu", space="image")
    control = torch.rand(36, 28, generator=torch.Generator().manual_seed(1))
    low, high = restorer(lq, [0.0, 1.0])
    torch.testing.assert_close(restorer(lq, control), (1 - control) * low + control * high)


def test_two_decodes_serve_every_value(tradeoff: TradeOff, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, decodes = Restorer(tradeoff, "cpu", space="image"), []
    at = restorer.model.at
    monkeypatch.setattr(restorer.model, "at", lambda state, t: decodes.append(t) or at(state, t))
    restorer(photo(), [0.0, 0.1, 0.2, 0.9, torch.rand(36, 28)])
    assert decodes == [0.0, 1.0]


def test_a_trajectory_changes_its_space_once(tradeoff: TradeOff) -> None:
    restorer = Restorer(tradeoff, "cpu")
    path = restorer.trajectory(photo())
    ends = restorer.in_image_space(path)
    assert ends.space == "image"
    assert ends.state.shape == (1, 6, 36, 28)
    assert restorer.in_image_space(ends) is ends
    assert torch.equal(restorer.decode(ends, 1.0), restorer.decode(path, 1.0))
    with pytest.raises(ValueError, match=r"height and width \(36, 28\)"):
        restorer.decode(ends, torch.zeros(9, 7))
    with pytest.raises(ValueError, match="control t"):
        restorer.decode(ends, 1.5)


def test_maps_for_models_that_take_numbers() -> None:
    """t enters the network of a flow, of which an image has one; in pixels a map needs no network."""
    model, lq = SmallFlow(), photo(8, 8)
    control = torch.zeros(8 * model.scale, 8 * model.scale)
    control[:, : control.shape[1] // 2] = 1.0
    with pytest.raises(ValueError, match="space: image"):
        Restorer(model, "cpu")(lq, control)
    restorer = Restorer(model, "cpu", space="image")
    mixed, low, high = restorer(lq, control), *restorer(lq, [0.0, 1.0])
    assert torch.equal(mixed, torch.where(control > 0, high, low))
    assert not torch.equal(low, high)


def test_a_model_without_a_slider_has_one_point(student: OneStepStudent) -> None:
    restorer = Restorer(student, "cpu", space="image")
    assert torch.equal(restorer(photo()), Restorer(student, "cpu")(photo()))
    with pytest.raises(ValueError, match="model without a slider"):
        restorer(photo(), 0.5)


def test_a_space_that_is_none(student: OneStepStudent) -> None:
    with pytest.raises(ValueError, match="latent, image as space of t, found 'pixel'"):
        Restorer(student, "cpu", space="pixel")  # type: ignore[arg-type]


@pytest.mark.parametrize(("space", "values"), [("latent", 1), ("latent", 3), ("image", 3)])
def test_tiles_are_counted(tradeoff: TradeOff, space: str, values: int) -> None:
    restorer, calls = Restorer(tradeoff, "cpu", tile=16, space=space), []  # type: ignore[arg-type]
    path = restorer.trajectory(photo(21, 30)[None], done=lambda: calls.append(1))
    for i in range(values):
        restorer.decode(path, i / 3, done=lambda: calls.append(1))
    assert len(calls) == restorer.tiles(21, 30, values) > 10
