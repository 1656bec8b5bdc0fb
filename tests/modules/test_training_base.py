"""What the base does for every training: steps, logs, checkpoints, resume."""

from itertools import pairwise

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ctsr_lightning.metrics.maps import TextureMaps
from ctsr_lightning.modules import (
    AdversarialDistillation,
    CodecTraining,
    ConditionalFlow,
    CTSRStage1,
    CTSRStage2,
    DetailTraining,
    GuidedPrior,
    OneStepTraining,
    PriorTraining,
    ResShiftTraining,
    RestorationModule,
    StructureRefinement,
    TrainingModule,
    TunableFlow,
)
from ctsr_lightning.modules.lr_schedule import WarmupCosine
from ctsr_lightning.networks import Discriminator, LoRA
from helpers import tiny


def adamw(groups):
    return torch.optim.AdamW(groups, lr=1e-3)


def stage_one(**options) -> CTSRStage1:
    return CTSRStage1(
        **{
            "student": tiny.student(seed=2),
            "fidelity": tiny.fidelity_teacher(),
            "realness": tiny.realness_teacher(),
            "reconstruction": tiny.reconstruction(),
            "optimizer": adamw,
            **options,
        }
    )


PIXEL = tiny.reconstruction(lambda_l2=0.0, lambda_l1=0.5, lambda_lpips=0.0)
MAKERS = {
    "codec": lambda: CodecTraining(tiny.nano_codec(), scale=4),
    "prior": lambda: PriorTraining(tiny.student()),
    "residual shift": lambda: ResShiftTraining(tiny.shift_network(), reconstruction=PIXEL),
    "one step": lambda: OneStepTraining(
        tiny.student(seed=2), tiny.reconstruction(), tiny.unet(seed=5), tiny.unet(seed=6)
    ),
    "stage 1": stage_one,
    "stage 1, full-size layout": lambda: stage_one(student=tiny.adapted_student(), fidelity=tiny.LinearTeacher()),
    "stage 2": lambda: CTSRStage2(
        tiny.student(), tiny.velocity(lora=LoRA(), condition_on_lq=True), tiny.fidelity_teacher()
    ),
    "stage 2, at its start": lambda: CTSRStage2(
        tiny.student(), tiny.velocity(), tiny.fidelity_teacher(), t_distribution="zero", head_lr=0.03
    ),
    "flow": lambda: ConditionalFlow(tiny.multi_step_flow(), symmetries=True),
    "detail": lambda: DetailTraining(
        tiny.student(),
        Discriminator(TextureMaps(), 4),
        tiny.reconstruction(random_views=True),
        random_views=True,
        symmetries=True,
        adversarial_after=1,
        disc_lr=1e-4,
    ),
    "flow in one step": lambda: TunableFlow(tiny.one_step_flow(), tiny.flow_network(seed=7)),
    "distillation": lambda: AdversarialDistillation(
        tiny.few_step(seed=2, steps=[999, 749, 499, 249], between="renoise", refine=0.5),
        tiny.few_step(),
        Discriminator(TextureMaps(), 4),
        tiny.reconstruction(lambda_l2=0.0, lambda_lpips=0.0, lambda_grid=0.1),
        random_views=True,
        symmetries=True,
        disc_lr=1e-4,
    ),
    "distillation, full-size layout": lambda: AdversarialDistillation(
        tiny.controlled_student(seed=2),
        tiny.controlled_student(),
        Discriminator(TextureMaps(), 4),
        step_weights=(0.7, 1.47),
        teacher_draws=2,
        forcing="own",
    ),
    "guided prior": lambda: GuidedPrior(tiny.few_step()),
    "structure": lambda: StructureRefinement(tiny.few_step()),
    "structure, full-size layout": lambda: StructureRefinement(
        tiny.controlled_student(steps=[999, 667]), lambda_jump_noise=0.1, start="truth"
    ),
}


@pytest.fixture(params=MAKERS)
def module(request) -> TrainingModule:
    return MAKERS[request.param]()


class Losses(Callback):
    """What was logged in every training batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append({k: v.item() for k, v in trainer.logged_metrics.items() if k.startswith("train/")})


def weights(module):
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


class Quadratic(TrainingModule):
    """‖w - mean(lq)‖² and a frozen weight: steps that can be followed by hand."""

    def __init__(self, **options):
        super().__init__(**options)
        self.w = nn.Parameter(torch.tensor([3.0]))
        self.fixed = nn.Parameter(torch.tensor([1.0]), requires_grad=False)

    def losses(self, batch):
        gap = self.w - batch.lq.mean()
        return {"near": gap.square().sum(), "draw": 0.1 * self.w.sum() * self.draws.normal(batch.lq).mean()}


def gradient_by_hand(w, batch_idx, rows):
    lq = tiny.ToyPairs().lq[rows]
    draw = Quadratic()._draws_for(batch_idx).normal(lq).mean().item()
    return 2 * (w - lq.mean().item()) + 0.1 * draw


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1)


@pytest.fixture
def quadratic(monkeypatch):
    """The toy training, whose draws can be repeated outside a trainer."""
    from ctsr_lightning.modules.draws import Draws

    seeds = {}
    original = TrainingModule._draws

    def remember(self, epoch, batch_idx):
        draws = original(self, epoch, batch_idx)
        seeds[batch_idx] = draws.generator.initial_seed()
        return draws

    monkeypatch.setattr(TrainingModule, "_draws", remember)
    monkeypatch.setattr(Quadratic, "_draws_for", lambda self, index: Draws(seeds[index]), raising=False)
    return Quadratic(optimizer=sgd)


def test_a_step_descends_the_sum_of_the_terms(quadratic):
    tiny.fit(quadratic, max_steps=1)
    assert quadratic.w.item() == pytest.approx(3.0 - 0.1 * gradient_by_hand(3.0, 0, slice(0, 2)), rel=1e-5)


def test_accumulation_averages_batches_and_counts_steps(quadratic):
    trainer = tiny.fit(quadratic, max_epochs=1, accumulate_grad_batches=2)
    assert trainer.global_step == 2  # four batches
    w = 3.0
    for first in (0, 2):
        rows = [slice(2 * i, 2 * i + 2) for i in (first, first + 1)]
        w -= 0.1 * sum(gradient_by_hand(w, i, r) for i, r in zip((first, first + 1), rows, strict=True)) / 2
    assert quadratic.w.item() == pytest.approx(w, rel=1e-5)


def test_every_batch_has_its_own_draws(quadratic):
    tiny.fit(quadratic, max_epochs=1)
    first, second = (quadratic._draws_for(i).normal(torch.zeros(4)) for i in (0, 1))
    assert not torch.equal(first, second)


def test_logged_terms_sum_to_the_logged_loss():
    watch = Losses()
    tiny.fit(stage_one(), max_steps=2, callbacks=[watch])
    for seen in watch.seen:
        terms = {k: v for k, v in seen.items() if k != "train/loss"}
        assert terms.keys() == {
            f"train/{t}/{k}" for t, k in [
                ("rec", "l2"), ("rec", "lpips"), ("fidelity", "align"), ("fidelity", "prior"), ("realness", "align"),
                ("realness", "prior"),
            ]
        }  # fmt: skip
        assert seen["train/loss"] == pytest.approx(sum(terms.values()), rel=1e-5)


def test_every_training_runs_and_counts_its_steps(module):
    before = weights(module)
    assert tiny.fit(module, max_steps=2).global_step == 2
    changed = [n for n, w in weights(module).items() if not torch.equal(w, before[n])]
    assert len(changed) > len(before) // 2
    assert all(p.isfinite().all() for p in module.parameters())


def test_every_training_runs_in_bfloat16(module):
    watch = Losses()
    tiny.fit(module, max_steps=2, precision="bf16-mixed", callbacks=[watch])
    assert all(torch.isfinite(torch.tensor(list(seen.values()))).all() for seen in watch.seen)


def test_checkpoint_holds_exactly_the_trainable_weights(module, tmp_path):
    trainer = tiny.fit(module, max_steps=1)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    expected = weights(module)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[n], expected[n]) for n in saved)


NOT_EMPTY = pytest.mark.filterwarnings("ignore:.*exists and is not empty.*:UserWarning")


def check_resume(make, train, tmp_path, step, total):
    """Train at once and in two runs: same losses, same weights."""

    def build():
        torch.manual_seed(0)  # adapters start at random
        return make()

    straight, resumed = Losses(), Losses()
    reference, again = build(), build()
    tiny.fit(reference, train(), max_steps=total, callbacks=[straight])
    for module, steps, start in ((build(), step, None), (again, total, tmp_path / f"step={step}.ckpt")):
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
        options = {"enable_checkpointing": True, "callbacks": [resumed, saver]}
        trainer = tiny.fit(module, train(), max_steps=steps, ckpt_path=start, **options)
    assert trainer.global_step == len(straight.seen) == total
    assert resumed.seen == straight.seen
    expected = weights(reference)
    assert all(torch.equal(w, expected[n]) for n, w in weights(again).items())


@pytest.mark.slow
@NOT_EMPTY
@pytest.mark.parametrize("name", MAKERS)
def test_resumed_training_equals_an_uninterrupted_one(name, tmp_path):
    check_resume(MAKERS[name], lambda: tiny.loader(count=4), tmp_path, 2, 4)


@pytest.mark.slow
@NOT_EMPTY
def test_training_resumed_within_an_epoch_equals_an_uninterrupted_one(tmp_path):
    from ctsr_lightning.data.samplers import ResumableLoader, TrainingSampler

    class Drawn(tiny.ToyPairs):
        def __getitem__(self, draw):
            return super().__getitem__(draw.image)

    def train():
        return ResumableLoader(Drawn(), batch_size=2, sampler=TrainingSampler(8, 8))

    check_resume(stage_one, train, tmp_path, 3, 6)


def test_random_seed_decides_the_draws(monkeypatch):
    seen = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        watch = Losses()
        tiny.fit(stage_one(), max_steps=1, callbacks=[watch])
        seen.append(watch.seen[0])
    assert seen[0] == seen[1]
    assert seen[0]["train/fidelity/prior"] != seen[2]["train/fidelity/prior"]


def test_validation_terms_are_the_same_every_time():
    class Validated(Callback):
        def __init__(self):
            self.seen = []

        def on_validation_end(self, trainer, module):
            self.seen.append(trainer.callback_metrics["val/prior/denoise"].item())

    watch, module = Validated(), PriorTraining(tiny.student(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    tiny.fit(module, max_epochs=2, limit_val_batches=2, callbacks=[watch], num_sanity_val_steps=0)
    assert len(watch.seen) == 2
    assert watch.seen[0] == watch.seen[1]


def test_learning_rate_advances_every_step():
    def halving(optimizer):
        return LambdaLR(optimizer, lambda step: 0.5**step)

    module = stage_one(scheduler=halving)
    trainer = tiny.fit(module, max_steps=3)
    assert trainer.lr_scheduler_configs[0].interval == "step"
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)


def test_learning_rate_counts_optimizer_steps_under_accumulation():
    module = stage_one(scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 0.5**step))
    trainer = tiny.fit(module, max_epochs=1, accumulate_grad_batches=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 4)


def test_cosine_rises_falls_and_stays():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = WarmupCosine(optimizer, total_steps=10, warmup_steps=2, floor=0.1)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[6] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[10:] == pytest.approx([0.2] * 3)
    assert all(a > b for a, b in pairwise(rates[2:11]))


def test_warmup_is_at_most_a_quarter_of_the_whole():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosine(optimizer, total_steps=8, warmup_steps=100)
    assert [round(schedule.factor(step), 3) for step in (0, 1, 2)] == [0.333, 0.667, 1.0]
    with pytest.raises(ValueError, match="warmup_steps >= 0"):
        WarmupCosine(optimizer, total_steps=3, warmup_steps=-1)


def test_schedule_without_a_length_takes_the_trainings():
    module = stage_one(scheduler=WarmupCosine)
    tiny.fit(module, max_steps=4)
    schedule = module.lr_schedulers()
    assert schedule.total_steps == 4
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)


def test_default_optimizer_is_the_papers():
    optimizer = stage_one(optimizer=TrainingModule.__init__.__defaults__[0]).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == 5e-5
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_nothing_to_train_is_refused():
    module = stage_one()
    module.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        module.configure_optimizers()


def test_state_that_does_not_belong_is_refused():
    module = stage_one()
    state = module.trimmed_state()
    lost = next(iter(state))
    state["student.unet.stray"] = state.pop(lost)
    with pytest.raises(ValueError, match="1 weights are missing") as error:
        module.load_state_dict(state)
    assert lost in str(error.value)
    assert "1 unexpected (first: ['student.unet.stray'])" in str(error.value)
    module.load_state_dict(state, strict=False)


def test_misshapen_state_is_refused():
    module = stage_one()
    state = {n: torch.zeros(1, 2, 3) for n in module.trimmed_state()}
    with pytest.raises(ValueError, match="does not belong to this CTSRStage1"):
        module.load_state_dict(state)


def test_trimmed_state_is_complete():
    module, other = stage_one(), stage_one(student=tiny.student(seed=9))
    other.load_state_dict(module.trimmed_state())
    lq = tiny.batch().lq
    assert torch.equal(other.restore(lq), module.restore(lq))


class Data(LightningDataModule):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def train_dataloader(self):
        return tiny.loader()


def test_data_of_another_scale_is_refused():
    from lightning import Trainer

    trainer = Trainer(accelerator="cpu", devices=1, logger=False, max_steps=1, limit_val_batches=0,
                      enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(ValueError, match="data of the model's scale 4, found 2"):
        trainer.test(stage_one(), datamodule=Data(2))


def test_prediction_restores(module):
    if not isinstance(module, RestorationModule):
        pytest.skip("restores nothing")
    lq = tiny.batch().lq
    with torch.no_grad():
        assert torch.equal(module.predict_step(tiny.batch(), 0)["restored"], module(lq))
        assert torch.equal(module(lq), module.restore(lq))


def test_networks_given_from_python_are_not_pickled(tmp_path):
    trainer = tiny.fit(stage_one(), max_steps=1)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    assert not torch.load(tmp_path / "c.ckpt", weights_only=True).get("hyper_parameters")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_weights_are_refused(precision):
    class Asked:
        pass

    trainer = Asked()
    trainer.precision = precision
    module = ResShiftTraining(tiny.shift_network())
    module._trainer = trainer
    with pytest.raises(ValueError, match="mixed"):
        module.setup("fit")
