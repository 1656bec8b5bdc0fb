"""The moving average in closed form, across accumulation, resume, validation and interruption."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from ctsr_lightning.callbacks import EMA
from helpers.evaluation_dummies import Blend, PhotoData


class Record(Callback):
    """Notes the weight after every optimizer step and at every validation."""

    def __init__(self) -> None:
        self.trained: list[float] = []
        self.validated: list[float] = []
        self.after: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > len(self.trained):
            self.trained.append(pl_module.gain.item())

    def on_validation_batch_end(self, trainer, pl_module, *_) -> None:
        self.validated.append(pl_module.gain.item())

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.after.append(pl_module.gain.item())


def closed_form(start: float, weights: list[float], decay: float) -> float:
    average = start
    for n, weight in enumerate(weights):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight
    return average


@pytest.mark.parametrize("accumulate", [1, 2])
def test_closed_form(make_trainer, accumulate: int) -> None:
    ema, record, model = EMA(decay=0.3), Record(), Blend()
    trainer = make_trainer(callbacks=[ema, record], max_epochs=3, accumulate_grad_batches=accumulate)
    trainer.fit(model, PhotoData(count=8))
    assert ema.updates == trainer.global_step == len(record.trained) == 12 // accumulate
    assert ema.averages.keys() == {"gain"}  # what is frozen is not averaged
    assert ema.averages["gain"].item() == pytest.approx(closed_form(0.9, record.trained, 0.3), abs=1e-6)


def test_validation_sees_the_averages_and_training_the_weights(make_trainer) -> None:
    ema, record, model = EMA(decay=0.9), Record(), Blend()
    make_trainer(callbacks=[ema, record], max_epochs=2, num_sanity_val_steps=0).fit(model, PhotoData(count=4))
    assert record.validated[0] == pytest.approx(closed_form(0.9, record.trained[:2], 0.9), abs=1e-6)
    assert record.after[1] == record.trained[1]
    assert model.gain.item() == record.trained[-1]
    trainer = make_trainer(callbacks=[ema, record])
    seen = len(record.validated)
    trainer.validate(model, PhotoData(count=2), verbose=False)
    assert record.validated[seen] == ema.averages["gain"].item() != model.gain.item()


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Be aware that when using `ckpt_path`")
def test_resume_is_exact(make_trainer, tmp_path) -> None:
    def run(name: str, epochs: int, resume=None) -> tuple[Blend, EMA, str]:
        ema, model = EMA(decay=0.5), Blend()
        keep = ModelCheckpoint(tmp_path / name)
        trainer = make_trainer(callbacks=[ema, keep], max_epochs=epochs, enable_checkpointing=True, logger=False)
        trainer.fit(model, PhotoData(count=4), ckpt_path=resume)
        return model, ema, keep.best_model_path

    straight, averages, last = run("straight", 4)
    _, _, middle = run("first", 2)
    resumed, resumed_averages, _ = run("second", 4, middle)
    assert torch.equal(straight.gain, resumed.gain)
    assert torch.equal(averages.averages["gain"], resumed_averages.averages["gain"])
    assert averages.updates == resumed_averages.updates == 8
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["state_dict"]["gain"] == straight.gain  # the weights, not the averages
    assert checkpoint["callbacks"]["EMA"]["averages"]["gain"] == averages.averages["gain"]
    tested, record = EMA(), Record()
    make_trainer(callbacks=[tested, record], logger=False).validate(Blend(), PhotoData(), last, verbose=False)
    assert record.validated[0] == averages.averages["gain"].item()


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Be aware that when using `ckpt_path`")
def test_a_share_of_the_first_weights_is_kept_also_over_a_resume(make_trainer, tmp_path) -> None:
    def run(name: str, epochs: int, share: float, resume=None) -> tuple[EMA, str]:
        ema, keep = EMA(decay=0.5, start_share=share), ModelCheckpoint(tmp_path / name)
        trainer = make_trainer(callbacks=[ema, keep], max_epochs=epochs, enable_checkpointing=True, logger=False)
        trainer.fit(Blend(), PhotoData(count=4), ckpt_path=resume)
        return ema, keep.best_model_path

    plain, without = run("plain", 4, 0.0)
    first = Blend().gain.item()
    shared, last = run("shared", 4, 0.4)
    assert plain.averages["gain"].item() != first
    expected = 0.6 * plain.averages["gain"].item() + 0.4 * first  # the average is linear
    assert shared.averages["gain"].item() == pytest.approx(expected, abs=1e-6)
    _, middle = run("half", 2, 0.4)
    resumed, _ = run("rest", 4, 0.4, middle)
    assert torch.equal(resumed.averages["gain"], shared.averages["gain"])
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["callbacks"]["EMA"]["averages"]["gain"] == shared.averages["gain"]  # what every reader takes
    with pytest.raises(ValueError, match=r"start_share 0\.4, found none.*begin anew"):
        run("mixed", 6, 0.4, without)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_validation_gives_the_weights_back(make_trainer, error: type[BaseException]) -> None:
    class Stop(Callback):
        def on_validation_batch_end(self, trainer, pl_module, *_) -> None:
            assert pl_module.gain.item() == ema.averages["gain"].item()
            raise error

    ema, model, record = EMA(), Blend(), Record()
    trainer = make_trainer(callbacks=[ema, record, Stop()], num_sanity_val_steps=0)
    with pytest.raises((error, SystemExit)):
        trainer.fit(model, PhotoData())
    assert model.gain.item() == record.trained[-1] != ema.averages["gain"].item()


def test_swapped_context_and_precision() -> None:
    ema, model = EMA(decay=0.9), Blend().bfloat16()
    ema.on_fit_start(None, model)  # type: ignore[arg-type]
    assert ema.averages["gain"].dtype == torch.float32
    with torch.no_grad():
        model.gain.fill_(2.0)
    ema.update(model)
    assert ema.averages["gain"].item() == pytest.approx(0.1 * 0.8984375 + 0.9 * 2.0)  # 0.9 in bfloat16
    with ema.swapped(model):
        assert model.gain.item() == pytest.approx(1.89, abs=0.01)
        with ema.swapped(model):  # nested: the outer one restores
            pass
        assert model.gain.item() == pytest.approx(1.89, abs=0.01)
    assert model.gain.item() == 2.0
    with pytest.raises(ZeroDivisionError), ema.swapped(model):
        raise ZeroDivisionError
    assert model.gain.item() == 2.0


def test_mistakes_are_refused(make_trainer) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(decay=1.0)
    with pytest.raises(ValueError, match=r"start_share in \[0, 1\), found 1"):
        EMA(start_share=1.0)
    ema = EMA()
    ema.load_state_dict({"averages": {"other": torch.zeros(1)}, "updates": 3})
    with pytest.raises(ValueError, match=r"2 differ.*gain"):
        make_trainer(callbacks=[ema], logger=False).fit(Blend(), PhotoData())
    with pytest.raises(ValueError, match=r"lacks.*other"):
        make_trainer(callbacks=[ema], logger=False).validate(Blend(), PhotoData(), verbose=False)
