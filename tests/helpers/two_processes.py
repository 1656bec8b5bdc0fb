"""What each of two processes does, importable from a fresh interpreter."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from ctsr_lightning.batch import Batch
from ctsr_lightning.metrics.maps import TextureMaps
from ctsr_lightning.models import TradeOff
from ctsr_lightning.modules import (
    AdversarialDistillation,
    CTSRStage1,
    DetailTraining,
    GuidedPrior,
    OneStepTraining,
    StructureRefinement,
    TrainingModule,
    TunableFlow,
)
from ctsr_lightning.networks import Discriminator
from helpers import tiny

STEPS = 3
BATCH = 4


class Logged(Callback):
    """Every value of every training batch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Remember."""
        self.seen.append({k: v.item() for k, v in trainer.logged_metrics.items() if k.startswith("train/")})


class Poisoned(TrainingModule):
    """A training whose loss is infinite for the image '5', which one process of two has."""

    def __init__(self) -> None:
        super().__init__(optimizer=lambda p: torch.optim.SGD(p, lr=1e-3))
        self.w = nn.Parameter(torch.ones(1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """A slope that depends on the images."""
        loss = batch.lq.mean() * self.w.sum()
        return {"slope": loss * float("inf") if "5" in batch.key else loss}


def trainings() -> dict[str, Any]:
    """Stage 1 in the full-size layout (adapters, prompts, KL codec), two networks at once, distillations and priors."""
    torch.manual_seed(0)
    stage_one = CTSRStage1(
        student=tiny.adapted_student(),
        fidelity=tiny.LinearTeacher(),
        realness=tiny.OneStepTeacher(tiny.adapted_student(seed=1)),
        reconstruction=tiny.reconstruction(),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
    )
    patterns = tiny.reconstruction(lambda_grid=0.1, random_views=True)
    one_step = OneStepTraining(tiny.student(seed=2), patterns, tiny.unet(seed=5), tiny.unet(seed=6), symmetries=True)
    flow = TunableFlow(tiny.one_step_flow(), tiny.flow_network(seed=7))
    slider = TradeOff(tiny.student(seed=3), tiny.velocity(awake=True))
    detail = DetailTraining(slider, Discriminator(TextureMaps(), 4), tiny.reconstruction(lambda_grid=0.1))
    prior, structure = GuidedPrior(tiny.few_step()), StructureRefinement(tiny.controlled_student(steps=[999, 667]))
    guided = {"guided prior": prior, "structure": structure}
    steps = {"steps": [999, 499], "between": "renoise", "refine": 0.5}
    distillation = AdversarialDistillation(
        tiny.few_step(seed=2, **steps), tiny.few_step(**steps), Discriminator(TextureMaps(), 4),
        step_weights=(0.5, 1.05), teacher_draws=2, forcing="own",
    )  # fmt: skip
    guided["distillation"] = distillation
    one = {"stage 1": stage_one, "one step": one_step, "flow": flow}
    return {**one, "detail": detail, **guided, "poisoned": Poisoned()}


def train(rank: int, world_size: int) -> dict[str, Any]:
    """Logged losses, and sums of the trained weights."""
    found: dict[str, Any] = {}
    for name, module in trainings().items():
        pairs, logged = tiny.ToyPairs(BATCH * STEPS), Logged()
        sampler: DistributedSampler[Any] = DistributedSampler(pairs, world_size, rank, shuffle=False)
        loader = DataLoader(pairs, batch_size=BATCH // world_size, sampler=sampler)
        options: dict[str, Any] = {"strategy": "ddp", "devices": 2} if world_size > 1 else {}
        trainer = tiny.fit(
            module.double(), loader, max_steps=STEPS, callbacks=[logged], use_distributed_sampler=False,
            gradient_clip_val=1.0, precision="64-true", **options,
        )  # fmt: skip
        sums = [p.detach().double().sum().item() for p in module.parameters() if p.requires_grad]
        found[name] = {
            "losses": logged.seen,
            "weights": sums,
            "steps": trainer.global_step,
            "skipped": module.finite_steps.skipped,
        }
    return found
