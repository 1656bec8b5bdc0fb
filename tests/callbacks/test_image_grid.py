"""Grids and trade-off curves arrive in TensorBoard and in files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ctsr_lightning.callbacks import Evaluation, ImageGrid, TradeOffCurve
from ctsr_lightning.figures.plots import labelled_row
from ctsr_lightning.images import read_image
from helpers.evaluation_dummies import Blend, Distance, PhotoData

STRIP = labelled_row({"a": torch.zeros(3, 24, 24)}).shape[1] - 24


def decode(event) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


@pytest.mark.parametrize(("fixed", "calls"), [(True, 2), (False, 4)])
def test_grid_of_an_ordinary_module(make_trainer, events, fixed: bool, calls: int) -> None:
    model = Blend()
    model.fixed_references = fixed  # type: ignore[assignment]
    make_trainer(callbacks=[ImageGrid()], max_epochs=2).fit(model, PhotoData())
    pictures = events().Images("val/images")
    assert [picture.step for picture in pictures] == [4, 8]  # none from the sanity check
    height, width, _ = decode(pictures[0]).shape
    assert width == 5 * 24 + 4 * 4  # lq, T_f, T_r, restored, gt
    assert height == 3 * (STRIP + 24) + 2 * 8
    assert model.reference_calls == calls  # two batches, in the first validation only where they stay the same


def test_grid_of_a_controllable_module_in_a_file(make_trainer, events, tmp_path) -> None:
    model = Blend(controllable=True)
    grid = ImageGrid(num_images=1, controls=[0, 0.5, 1], save=True, crop=20, upsampling="nearest")
    make_trainer(callbacks=[grid]).test(model, PhotoData(), verbose=False)
    picture = decode(events().Images("test/images")[0])
    assert picture.shape == (STRIP + 20, 7 * 20 + 6 * 4, 3)  # lq, T_f, T_r, three controls, gt
    saved = read_image(tmp_path / "run" / "images" / "test-0000000.png")
    assert saved.shape[1:] == picture.shape[:2]
    _, gt, _ = PhotoData().test_dataloader().dataset[0]
    torch.testing.assert_close(saved[:, STRIP:, -20:], gt[:, 2:22, 2:22], atol=1 / 254, rtol=0)


def test_without_a_logger_nothing_is_drawn(make_trainer, caplog) -> None:
    model = Blend()
    with caplog.at_level("INFO"):
        make_trainer(callbacks=[ImageGrid()], logger=False).validate(model, PhotoData(), verbose=False)
    assert caplog.text.count("no logger takes pictures") == 1
    assert model.reference_calls == 0


def test_fast_dev_run_leaves_no_files(make_trainer, tmp_path) -> None:
    callbacks = [Evaluation(perceptual=Distance()), ImageGrid(save=True), TradeOffCurve()]
    make_trainer(callbacks=callbacks, fast_dev_run=True).fit(Blend(controllable=True), PhotoData())
    assert list(tmp_path.rglob("*.png")) == []


def test_curve_after_each_validation(make_trainer, events, tmp_path) -> None:
    callbacks = [TradeOffCurve(), Evaluation(perceptual=Distance())]  # in any order
    make_trainer(callbacks=callbacks, max_epochs=2).fit(Blend(controllable=True), PhotoData())
    assert [event.step for event in events().Images("val/tradeoff")] == [4, 8]
    assert read_image(tmp_path / "run" / "tradeoff.png").shape[0] == 3


def test_curve_of_an_ordinary_module_is_none(make_trainer, events) -> None:
    make_trainer(callbacks=[Evaluation(), TradeOffCurve()]).validate(Blend(), PhotoData(), verbose=False)
    assert events().Tags()["images"] == []


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([TradeOffCurve()], "there is none"),
        ([Evaluation(), TradeOffCurve()], "needs a perceptual metric"),
        ([Evaluation(), TradeOffCurve(y="lpips")], r"'lpips'.*\['psnr_y', 'ssim_y'\]"),
    ],
)
def test_curve_without_its_metrics(make_trainer, callbacks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(callbacks=callbacks, logger=False).validate(Blend(controllable=True), PhotoData(), verbose=False)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="positive"):
        ImageGrid(num_images=0)
    with pytest.raises(ValueError, match=r"t in \[0, 1\]"):
        ImageGrid(controls=[2.0])
