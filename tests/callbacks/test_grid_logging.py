"""Evaluation measures grid energy where the module has a codec, by that codec's factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ctsr_lightning.callbacks import Evaluation, TradeOffCurve
from ctsr_lightning.callbacks.evaluation import codec_factor
from ctsr_lightning.metrics.grid import GridEnergy
from ctsr_lightning.metrics.lattice import Lattice
from ctsr_lightning.networks.frozen import Frozen
from helpers.evaluation_dummies import Blend, PhotoData, Photos, collate

ALL = collate([Photos(7)[i] for i in range(7)])


def coded(factor: int) -> nn.Module:
    """A network whose codec has patches."""
    network, codec = nn.Module(), nn.Module()
    codec.factor = factor
    network.codec = codec
    return network


def painted(image: Tensor, factor: int) -> Tensor:
    """An image whose patches are alternately darker."""
    rows, columns = torch.meshgrid(*(torch.arange(side) // factor for side in image.shape[-2:]), indexing="ij")
    return image * (1.0 - 0.3 * ((rows + columns) % 2))


class Painting(Blend):
    """Paints a grid of patches at t = 0, none at t = 1."""

    def __init__(self, factor: int = 4) -> None:
        super().__init__(controllable=True)
        self.student = Frozen(coded(factor))

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        return painted(super().restore(lq), 4)


class LargeData(PhotoData):
    """Three photos that a window fits into."""

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Photos(3, size=128), batch_size=2, collate_fn=collate)


def test_every_t_and_every_baseline_is_logged(make_trainer, events) -> None:
    evaluation, model = Evaluation(controls=[0.0, 0.25, 1.0]), Painting()
    trainer = make_trainer(callbacks=[evaluation])
    trainer.validate(model, PhotoData(), verbose=False)
    names = {f"val/grid_energy/{label}" for label in ("t=0.00", "t=0.25", "t=1.00", "realness", "fidelity")}
    baselines = {f"val/{label}/grid_energy" for label in ("bicubic", "T_f", "T_r")}
    assert {name for name in events().Tags()["scalars"] if "grid_energy" in name} == names | baselines
    for control in evaluation.controls:
        (image,) = model.sweep(ALL.lq, [control])
        expected = GridEnergy(4).values(image.detach(), ALL.gt).mean().item()
        assert evaluation.results[f"t={control:.2f}"]["grid_energy"] == pytest.approx(expected, abs=1e-12)
    metrics = trainer.callback_metrics
    assert metrics["val/grid_energy/realness"] > metrics["val/grid_energy/t=0.25"] > metrics["val/grid_energy/fidelity"]
    assert evaluation.higher_is_better["grid_energy"] is None


def test_the_factor_is_that_of_the_codec_in_every_run(make_trainer) -> None:
    evaluation = Evaluation(controls=[0.0], baselines=False)
    for factor in (4, 8):
        make_trainer(callbacks=[evaluation], logger=False).validate(Painting(factor), PhotoData(), verbose=False)
        expected = GridEnergy(factor).values(Painting().restore(ALL.lq).detach(), ALL.gt).mean().item()
        assert evaluation.results["t=0.00"]["grid_energy"] == pytest.approx(expected, abs=1e-12)
    make_trainer(callbacks=[evaluation], logger=False).validate(Blend(), PhotoData(), verbose=False)
    assert set(evaluation.results["restored"]) == {"psnr_y", "ssim_y"}


def test_lattices_are_logged_beside_those_of_the_ground_truth(make_trainer, events, tmp_path) -> None:
    """Where images are large enough; the lattice of the painted patches stands out at t = 0."""
    evaluation, model, data = Evaluation(controls=[0.0, 1.0]), Painting(), LargeData()
    callbacks = [evaluation, TradeOffCurve(y="ssim_y")]  # the ground truth, which has no SSIM, is no point of it
    make_trainer(callbacks=callbacks).validate(model, data, verbose=False)
    assert (tmp_path / "run" / "tradeoff.png").is_file()
    large = collate([Photos(3, size=128)[i] for i in range(3)])
    names = {f"val/lattice_{p}/{label}" for p in (4, 8) for label in ("t=0.00", "t=1.00", "realness", "fidelity")}
    names |= {f"val/{label}/lattice_{p}" for p in (4, 8) for label in ("bicubic", "T_f", "T_r", "gt")}
    assert {name for name in events().Tags()["scalars"] if "lattice" in name} == names
    assert evaluation.results["gt"] == {
        f"lattice_{p}": pytest.approx(Lattice(p).values(large.gt).mean().item(), abs=1e-9) for p in (4, 8)
    }
    (image,) = model.sweep(large.lq, [0.0])
    expected = Lattice(8).values(image.detach()).mean().item()
    assert evaluation.results["t=0.00"]["lattice_8"] == pytest.approx(expected, abs=1e-9)
    assert expected > 3.0 + evaluation.results["t=1.00"]["lattice_8"]
    assert evaluation.higher_is_better["lattice_4"] is None


def test_it_can_be_left_out_or_chosen_by_hand(make_trainer) -> None:
    for evaluation, names in (
        (Evaluation(baselines=False, grid=False), {"psnr_y", "ssim_y"}),
        (Evaluation({"grid_energy": GridEnergy(2)}, [0.0], baselines=False), {"psnr_y", "ssim_y", "grid_energy"}),
    ):
        make_trainer(callbacks=[evaluation], logger=False).validate(Painting(), PhotoData(), verbose=False)
        assert set(evaluation.results["t=0.00"]) == names
    expected = GridEnergy(2).values(Painting().restore(ALL.lq).detach(), ALL.gt).mean().item()
    assert evaluation.results["t=0.00"]["grid_energy"] == pytest.approx(expected, abs=1e-12)


def test_where_codecs_are() -> None:
    for place in ("student", "network"):
        for wrapped in (coded(8), Frozen(coded(8))):
            module = nn.Module()
            setattr(module, place, wrapped)
            assert codec_factor(module) == 8
    assert codec_factor(coded(4)) == 4  # the training of the codec itself
    assert codec_factor(coded(1)) is None
    assert codec_factor(nn.Module()) is None
