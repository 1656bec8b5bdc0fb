"""Experiments of `make claims`: the nano trainings of stages 1 and 2 with some settings replaced, once per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

STEPS: Final = {"stage1": 500, "stage2": 500}
"""Optimizer steps of one training: a quarter of an hour with teachers, half of that without, on a CPU core."""
LEARNING_RATE: Final = {"stage1": 5e-5}
"""The paper's; at nano's own, which suits longer trainings, the start at T_r would first be undone."""
BATCH: Final = 4
CROP: Final = 256
"""Side of the central crop of every test photograph in pixels."""
CONTROLS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Values of t, those of the paper's Table 7."""
ALPHAS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of T_f in the blend of the teachers; Table 1 has every second, and against those the curve over t is held."""
GAMMAS: Final = (5.5,)
"""Values of γ_time beside the configured one and 0: the paper's."""
L2_FACTORS: Final = (4.0, 16.0)
"""Factors on λ_l2 without distillation: the plain way to a higher PSNR."""
LONGER: Final = 2.0
"""Factor on the steps of the training without distillation that takes about as long as that with it."""
TEMPERATURES: Final = (0.0, 0.5, 1.0)
"""Temperatures of T_f, of which one is configured: 0 follows means, 1 samples as ResShift does."""
FACTOR: Final = 5.0
"""Factor by which λ_fl and λ_rn are raised."""

TEACHERS: Final = "chain/teachers"
FULL: Final = "chain/full_length"
STAGE_1: Final = "stage1/base"
NO_DISTILLATION: Final = "stage1/no_distillation"
TRAINED_LONGER: Final = "stage1/no_distillation_longer"
MORE_L2: Final = tuple(f"stage1/l2_{factor:g}" for factor in L2_FACTORS)
STAGE_2: Final = "stage2/base"


@dataclass(frozen=True)
class Experiment:
    """A training with some settings replaced, then measured.

    Args:
        key: Group and name, `stage1/score`; the group `chain` is measured without training.
        text: Name on the page.
        overrides: Settings that replace those of the model's `init_args`.
        length: Factor on the number of its steps.
        seed: Seed of crops, degradations, order, noise and timesteps.
    """

    key: str
    text: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    length: float = 1.0
    seed: int = 0

    @property
    def group(self) -> str:
        """`chain`, `stage1` or `stage2`."""
        return self.key.partition("/")[0]

    @property
    def is_trained(self) -> bool:
        """Whether it trains anything."""
        return self.group != "chain"

    @property
    def teachers(self) -> str:
        """The measurement of the teachers that a training's curve is held against: of T_f at its own temperature."""
        return teachers_at(self.overrides.get(TEMPERATURE))

    @property
    def title(self) -> str:
        """Name in messages."""
        return f"{self.key}, seed {self.seed}" if self.is_trained else self.key

    @property
    def stem(self) -> str:
        """First part of its files' names."""
        return self.key.replace("/", "-") + (f"-seed{self.seed}" if self.is_trained else "")


TEMPERATURE: Final = "fidelity.init_args.network.init_args.temperature"
"""Where a stage's configuration keeps the temperature of T_f."""


def teachers_at(temperature: float | None) -> str:
    """Key of the measurement of the teachers with T_f at a temperature; None is the configured one."""
    return TEACHERS if temperature is None else f"chain/temperature_{temperature:g}"


def list_experiments(settings: Mapping[str, Any], *, full: bool) -> list[Experiment]:
    """All experiments, each with seed 0, in the order of the tables; values that are configured are not tried again.

    Args:
        settings: Stage 1's settings as configured, see `read_loss_settings`.
        full: Whether the chain has stages 1 and 2 at full length to measure.
    """
    fl, rn, gamma, l2 = "lambda_fidelity", "lambda_realness", "gamma_time", "reconstruction.lambda_l2"
    configured = f"λ_fl {settings[fl]:g}, λ_rn {settings[rn]:g}, γ_time {settings[gamma]:g}"
    raised = {name: settings[name] * FACTOR for name in (fl, rn)}
    alone, l2_weight = {fl: 0.0, rn: 0.0}, settings["reconstruction"]["lambda_l2"]
    own = settings["fidelity"]["init_args"]["network"]["init_args"].get("temperature", 1.0)
    others = [value for value in TEMPERATURES if value != own]
    return [
        Experiment(TEACHERS, f"T_f at temperature {own:g}, as configured"),
        *(Experiment(teachers_at(v), f"T_f at temperature {v:g}", {TEMPERATURE: v}) for v in others),
        *[Experiment(FULL, "the chain's own stages 1 and 2")] * full,
        Experiment(STAGE_1, f"as configured ({configured})"),
        Experiment(NO_DISTILLATION, "no distillation (λ_fl = λ_rn = 0): T_r trained on by Eq. 1", alone),
        Experiment(TRAINED_LONGER, f"the same, {LONGER:g} times as long", alone, LONGER),
        *(
            Experiment(
                key,
                f"no distillation, λ_l2 times {factor:g} ({l2_weight * factor:g})",
                {**alone, l2: l2_weight * factor},
            )
            for key, factor in zip(MORE_L2, L2_FACTORS, strict=True)
        ),
        Experiment("stage1/no_prior", "align without prior (γ_time = 0)", {gamma: 0.0}),
        *(Experiment(f"stage1/gamma_{v:g}", f"γ_time = {v:g}", {gamma: v}) for v in GAMMAS if v != settings[gamma]),
        Experiment("stage1/fidelity_up", f"λ_fl times {FACTOR:g} ({raised[fl]:g})", {fl: raised[fl]}),
        Experiment("stage1/realness_up", f"λ_rn times {FACTOR:g} ({raised[rn]:g})", {rn: raised[rn]}),
        *(
            Experiment(f"stage1/{v}", f"`gradient: {v}`", {"gradient": v})
            for v in ("paper", "score")
            if v != settings["gradient"]
        ),
        Experiment(STAGE_2, "as configured"),
        *(Experiment(f"stage2/temperature_{v:g}", f"T_f at temperature {v:g}", {TEMPERATURE: v}) for v in others),
        Experiment("stage2/uniform", "`t_distribution: uniform`", {"t_distribution": "uniform"}),
    ]


def plan_experiments(
    experiments: Sequence[Experiment], seeds: Sequence[int], only: Sequence[str] = ()
) -> list[Experiment]:
    """The experiments in the order in which they are done: those without training, then seed by seed.

    Args:
        experiments: All experiments, with seed 0.
        seeds: Seeds, all different.
        only: Groups (`stage1`) or keys (`stage1/score`) to do; the starting points of those are included.

    Raises:
        ValueError: If a word names neither, or there is no seed, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"Expected different seeds of at least 0, such as 0,1,2; found {list(seeds)}.")
    known = {word for e in experiments for word in (e.group, e.key)}
    if unknown := [word for word in only if word not in known]:
        raise ValueError(
            f"Expected --only to name groups or experiments out of {', '.join(sorted(known))}; found "
            f"{', '.join(unknown)}."
        )
    chosen = [e for e in experiments if not only or e.group in only or e.key in only]
    needs_stage_1 = any(e.group == "stage2" for e in chosen)
    chosen = [e for e in experiments if e in chosen or (needs_stage_1 and e.key == STAGE_1)]
    measured = [e for e in chosen if not e.is_trained]
    return measured + [replace(e, seed=seed) for seed in seeds for e in chosen if e.is_trained]


def start_experiment(experiment: Experiment, experiments: Sequence[Experiment]) -> Experiment | None:
    """The experiment whose weights another one starts from: for stage 2, stage 1 as configured of the same seed."""
    if experiment.group != "stage2":
        return None
    return next(e for e in experiments if e.key == STAGE_1 and e.seed == experiment.seed)


def read_config(configs: Path, name: str) -> dict[str, Any]:
    """A training's configuration as plain values, with the YAML files that it names in place of their names.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = configs / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the nano configuration '{path}', found nothing. Run this in the project's folder, or name the "
            "folder of the configurations with --configs."
        )
    values: dict[str, Any] = _resolve(path.name, configs)
    return values


def _resolve(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _resolve(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, folder) for item in value]
    if isinstance(value, str) and value.endswith(".yaml"):
        file = folder / value
        return _resolve(yaml.safe_load(file.read_text(encoding="utf-8")), file.parent)
    return value


def read_loss_settings(configs: Path) -> dict[str, Any]:
    """The model's `init_args` of stage 1, among them the weights of its distillation terms.

    Raises:
        FileNotFoundError: If `stage1.yaml` is not there.
        ValueError: If it does not write out λ_fl, λ_rn and γ_time.
    """
    settings: dict[str, Any] = read_config(configs, "stage1").get("model", {}).get("init_args", {})
    names = ("lambda_fidelity", "lambda_realness", "gamma_time")
    if missing := [name for name in names if not isinstance(settings.get(name), int | float)]:
        raise ValueError(
            f"Expected the loss weights {', '.join(names)} as numbers below model.init_args of "
            f"'{configs / 'stage1.yaml'}', missing {', '.join(missing)}. Write them out there."
        )
    return settings
