"""Evaluation gives the numbers of a direct computation, once per image, and says what is wrong."""

import pytest
import torch
from lightning import Callback, LightningModule
from torch.nn import functional as F
from torchmetrics.image import PeakSignalNoiseRatio

from ctsr_lightning.batch import Ownership
from ctsr_lightning.callbacks import Evaluation
from ctsr_lightning.images import enlarge, quantize
from ctsr_lightning.metrics.distortion import psnr_y, ssim_y
from helpers.evaluation_dummies import SCALE, Blend, Distance, Features, PhotoData, Photos, Unpadded, collate

ALL = collate([Photos(7)[i] for i in range(7)])
assert ALL.gt is not None


def expected_psnr(images: torch.Tensor) -> float:
    return psnr_y(images, ALL.gt).mean().item()


def test_ordinary_module(make_trainer, events) -> None:
    model, evaluation = Blend(), Evaluation(perceptual=Distance(), fid=Features())
    trainer = make_trainer(callbacks=[evaluation])
    trainer.validate(model, PhotoData(), verbose=False)
    restored = model.restore(ALL.lq).detach()
    values = evaluation.results["restored"]
    assert values["psnr_y"] == pytest.approx(expected_psnr(restored), abs=1e-9)
    assert values["ssim_y"] == pytest.approx(ssim_y(restored, ALL.gt).mean().item(), abs=1e-9)
    assert values["edges"] == pytest.approx(Distance()(quantize(restored), quantize(ALL.gt)).mean().item(), abs=1e-7)
    assert values["fid_colours"] > 0
    assert list(evaluation.results) == ["restored", "bicubic", "T_f", "T_r"]
    bicubic = enlarge(ALL.lq, ALL.gt)
    assert evaluation.results["bicubic"]["psnr_y"] == pytest.approx(expected_psnr(bicubic), abs=1e-9)
    assert trainer.callback_metrics["val/psnr_y"].item() == pytest.approx(values["psnr_y"], abs=1e-4)
    scalars = events().Tags()["scalars"]
    assert {"val/psnr_y", "val/edges", "val/fid_colours", "val/bicubic/psnr_y", "val/T_f/ssim_y"} <= set(scalars)


def test_controllable_module(make_trainer, events) -> None:
    model, evaluation = Blend(controllable=True), Evaluation(controls=[1.0, 0.0, 0.25], baselines=False)
    trainer = make_trainer(callbacks=[evaluation])
    trainer.test(model, PhotoData(), verbose=False)
    assert list(evaluation.results) == ["t=0.00", "t=0.25", "t=1.00"] == evaluation.control_labels
    images = model.sweep(ALL.lq, [0.25])[0].detach()
    assert evaluation.results["t=0.25"]["psnr_y"] == pytest.approx(expected_psnr(images), abs=1e-9)
    metrics = trainer.callback_metrics
    assert metrics["test/psnr_y/realness"] == metrics["test/psnr_y/t=0.00"] != metrics["test/psnr_y/fidelity"]
    assert metrics["test/psnr_y/fidelity"] == metrics["test/psnr_y/t=1.00"]
    assert "test/psnr_y/t=0.25" in events().Tags()["scalars"]


def test_references_that_change_are_measured_in_every_epoch(make_trainer) -> None:
    model, evaluation, found = Blend(), Evaluation(), []
    model.fixed_references = False  # type: ignore[assignment]
    model.references = lambda batch: {"again": model.restore(batch.lq)}  # type: ignore[method-assign]

    class Kept(Callback):
        def on_validation_epoch_end(self, trainer, pl_module) -> None:
            if not trainer.sanity_checking:
                found.append([evaluation.results[name]["psnr_y"] for name in ("restored", "again")])

    make_trainer(callbacks=[evaluation, Kept()], max_epochs=3).fit(model, PhotoData())
    assert len({own for own, _ in found}) == 3
    assert all(own == again for own, again in found)


def test_fit_measures_every_epoch_and_baselines_once(make_trainer, events) -> None:
    model, evaluation = Blend(), Evaluation()
    make_trainer(callbacks=[evaluation], max_epochs=3).fit(model, PhotoData())
    assert model.reference_calls == 2 + 4  # two batches of the sanity check, then the first validation
    accumulator = events()
    curve = [event.value for event in accumulator.Scalars("val/psnr_y")]
    assert len(curve) == 3  # no sanity check among them
    assert len(set(curve)) == 3
    flat = [event.value for event in accumulator.Scalars("val/bicubic/psnr_y")]
    assert len(flat) == 3
    assert len(set(flat)) == 1
    assert "bicubic" in evaluation.results


def test_training_is_the_same_with_and_without(make_trainer) -> None:
    class Noisy(Blend):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * torch.rand(1)

    gains = []
    for callbacks in ([], [Evaluation()]):
        torch.manual_seed(0)
        model = Noisy()
        make_trainer(callbacks=callbacks, max_epochs=2, logger=False).fit(model, PhotoData())
        gains.append(model.gain.detach())
    assert torch.equal(*gains)


def test_any_torchmetric_sees_rounded_images(make_trainer) -> None:
    evaluation = Evaluation({"psnr_rgb": PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3))}, baselines=False)
    model = Blend()
    make_trainer(callbacks=[evaluation], logger=False).validate(model, PhotoData(), verbose=False)
    expected = PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3))
    expected.update(quantize(model.restore(ALL.lq).detach()), quantize(ALL.gt))
    assert evaluation.results["restored"]["psnr_rgb"] == pytest.approx(expected.compute().item(), abs=1e-5)
    assert evaluation.higher_is_better == {"psnr_y": True, "ssim_y": True, "psnr_rgb": True}


def test_module_state_stays_free_of_metrics(make_trainer) -> None:
    model = Blend()
    trainer = make_trainer(callbacks=[Evaluation(perceptual=Distance(), fid=Features())], logger=False)
    trainer.validate(model, PhotoData(), verbose=False)
    assert set(model.state_dict()) == {"gain", "still"}


def test_precision_of_the_trainer_is_used(make_trainer) -> None:
    class Watching(Blend):
        def restore(self, lq, keys=None):
            assert torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
            return super().restore(lq)

    trainer = make_trainer(callbacks=[Evaluation()], precision="bf16-mixed", logger=False)
    trainer.validate(Watching(), PhotoData(), verbose=False)


def test_missing_ground_truth(make_trainer) -> None:
    trainer = make_trainer(callbacks=[Evaluation()], logger=False)
    with pytest.raises(ValueError, match=r"ground truth.*folder0/photo0"):
        trainer.validate(Blend(), PhotoData(with_gt=False), verbose=False)


def test_non_finite_output_names_the_images(make_trainer) -> None:
    class Broken(Blend):
        def restore(self, lq, keys=None):
            images = F.interpolate(lq, scale_factor=SCALE)
            images[1, :, 0, 0] = torch.nan
            return images

    trainer = make_trainer(callbacks=[Evaluation()], logger=False)
    with pytest.raises(ValueError, match=r"'restored'.*\['folder1/photo1'\]"):
        trainer.validate(Broken(), PhotoData(), verbose=False)


def test_images_counted_twice_are_refused(make_trainer) -> None:
    class Twins(Photos):
        def __getitem__(self, index):
            lq, gt, _ = super().__getitem__(index)
            return lq, gt, "same"

    loader = torch.utils.data.DataLoader(Twins(2), collate_fn=collate)
    with pytest.raises(ValueError, match=r"every image once.*'same'"):
        make_trainer(callbacks=[Evaluation()], logger=False).validate(Blend(), loader, verbose=False)


def test_wrong_settings() -> None:
    for controls in ([], [0.0, 25.0], [-0.1]):
        with pytest.raises(ValueError, match=r"t in \[0, 1\]"):
            Evaluation(controls=controls)


def test_module_without_restoration(make_trainer) -> None:
    class Prior(LightningModule):
        def validation_step(self, batch, batch_idx): ...

    with pytest.raises(ValueError, match="Prior restores none"):
        make_trainer(callbacks=[Evaluation()], logger=False).validate(Prior(), PhotoData(), verbose=False)


@pytest.mark.parametrize(("count", "ranks"), [(7, 2), (7, 3), (8, 3), (1, 4), (6, 3)])
def test_repeated_images_of_a_padding_sampler_are_left_out(count: int, ranks: int) -> None:
    counted = []
    for rank in range(ranks):
        sampler = torch.utils.data.DistributedSampler(Photos(count), ranks, rank, shuffle=False)
        loader = torch.utils.data.DataLoader(Photos(count), 2, sampler=sampler, collate_fn=collate)
        owned = Ownership([loader])
        for batch in loader:
            counted += [batch.key[i] for i in owned.select(len(batch.key))]
    assert sorted(counted) == sorted(Photos(count)[i][2] for i in range(count))


def test_a_process_without_images_is_refused() -> None:
    sampler = Unpadded(Photos(2), 3, 0)
    sampler.total_size = 2
    loader = torch.utils.data.DataLoader(Photos(2), sampler=sampler, collate_fn=collate)
    with pytest.raises(ValueError, match="2 for 3 processes"):
        Ownership(loader)
