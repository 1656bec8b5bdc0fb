"""What `make claims` trains and measures: variations of the two stages, each with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

Group = Literal["chain", "stage1", "stage2"]

STEPS: Final[Mapping[Group, int]] = {"stage1": 120, "stage2": 180}
"""Optimizer steps of one training: about 40 seconds each on two CPU cores."""
BATCH: Final = 4
CROP: Final = 256
"""Side of the central crop of every test photograph in pixels."""
CONTROLS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Values of t, those of the paper's Table 7."""
ALPHAS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of T_f in the blend of the teachers; Table 1 has every second, and against those the curve over t is held."""
GAMMAS: Final = (1.0, 20.0)
"""Values of γ_time beside the configured one and 0."""
FACTOR: Final = 5.0
"""By how much λ_fl and λ_rn are raised."""
PAPER: Final = {
    "reconstruction.lambda_l2": 1.0,
    "reconstruction.lambda_lpips": 2.0,
    "lambda_fidelity": 2.0,
    "lambda_realness": 1.0,
}
"""The paper's weights of the loss (section 4.1)."""
TINY: Final = 1e-6
"""What align is weighted with to leave it out where prior stays."""

BASE: Final = "base"
TEACHERS: Final = "teachers"
FULL: Final = "full_length"
MIXED: Final = "S_1 + T_f α="
"""How methods are called that blend stage 1's image with T_f's."""


def blend_label(alpha: float) -> str:
    """How a blend of the teachers is called.

    Args:
        alpha: Share of T_f.
    """
    return f"α={alpha:.1f}"


@dataclass(frozen=True)
class Variation:
    """A training that differs from the configured one in some settings.

    Args:
        group: What is trained; `chain` for what is only measured.
        name: Its name in records and on the command line.
        text: Its name on the page.
        overrides: Settings of the model's `init_args` that replace the configured ones.
        gamma: Its γ_time where that is all that sets it apart, which gives it a place among the values tried.
    """

    group: Group
    name: str
    text: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    gamma: float | None = None

    @property
    def key(self) -> str:
        """`stage1/base`."""
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Experiment:
    """A variation with a seed, trained and measured on its own.

    Args:
        variation: The variation.
        seed: Seed of crops, degradations, order, noise and timesteps; 0 for what is only measured.
    """

    variation: Variation
    seed: int = 0

    @property
    def title(self) -> str:
        """How it is called while it runs."""
        return self.variation.key + ("" if self.variation.group == "chain" else f", seed {self.seed}")

    @property
    def stem(self) -> str:
        """The beginning of its files' names."""
        words = self.variation.key.replace("/", "-")
        return words if self.variation.group == "chain" else f"{words}-seed{self.seed}"


def read_weights(configs: Path) -> dict[str, float]:
    """The weights of stage 1's distillation terms as configured.

    Args:
        configs: Folder with `stage1.yaml`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it names no such weights.
    """
    model = read_config(configs, "stage1").get("model", {}).get("init_args", {})
    names = ("lambda_fidelity", "lambda_realness", "gamma_time")
    if missing := [name for name in names if not isinstance(model.get(name), int | float)]:
        raise ValueError(
            f"Expected the loss weights {', '.join(names)} as numbers below model.init_args of "
            f"'{configs / 'stage1.yaml'}', missing {', '.join(missing)}. Write them out there."
        )
    return {name: float(model[name]) for name in names}


def read_config(configs: Path, name: str) -> dict[str, Any]:
    """A training's configuration as plain values, with the files that it names in place of their names.

    Args:
        configs: Folder of the configurations.
        name: `stage1` or `stage2`.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = configs / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the nano configuration '{path}', found nothing. Run this in the project's folder, or name the "
            "folder of the configurations with --configs."
        )
    values: dict[str, Any] = _read(path)
    return values


def _read(path: Path) -> Any:
    """A configuration file, and those that it names relative to itself."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return _read(path.parent / value) if isinstance(value, str) and value.endswith(".yaml") else value

    return filled(yaml.safe_load(path.read_text(encoding="utf-8")))


def measured(full: bool) -> list[Variation]:
    """What is measured without any training.

    Args:
        full: Whether the chain has both stages, trained at full length, as well.
    """
    teachers = Variation("chain", TEACHERS, "the teachers, their blend, bicubic enlargement")
    return [teachers, Variation("chain", FULL, "the chain's own stages 1 and 2")] if full else [teachers]


def stage_1(weights: Mapping[str, float]) -> list[Variation]:
    """Stage 1 as configured and all that is varied in it.

    Args:
        weights: The configured weights of the loss.
    """
    fidelity, realness, gamma = (weights[name] for name in ("lambda_fidelity", "lambda_realness", "gamma_time"))

    def vary(name: str, text: str, gamma: float | None = None, **overrides: Any) -> Variation:
        return Variation("stage1", name, text, overrides if gamma is None else {"gamma_time": gamma}, gamma)

    # CTSRStage1 has one weight per teacher and γ_time in front of prior: a tiny weight and a γ_time as many times
    # larger leave prior as it is and align at a millionth.
    prior_alone = {
        "lambda_fidelity": fidelity * TINY,
        "lambda_realness": realness * TINY,
        "gamma_time": gamma / TINY,
    }
    return [
        Variation("stage1", BASE, f"as configured (λ_fl {fidelity:g}, λ_rn {realness:g}, γ_time {gamma:g})", {}, gamma),
        vary("no_distillation", "no distillation (λ_fl = λ_rn = 0)", lambda_fidelity=0.0, lambda_realness=0.0),
        vary("no_fidelity", "no terms of T_f (λ_fl = 0)", lambda_fidelity=0.0),
        vary("no_realness", "no terms of T_r (λ_rn = 0)", lambda_realness=0.0),
        vary("no_prior", "align without prior (γ_time = 0)", 0.0),
        vary("no_align", "prior without align", **prior_alone),
        *(vary(f"gamma_{value:g}", f"γ_time = {value:g}", value) for value in GAMMAS if value != gamma),
        vary("fidelity_up", f"λ_fl times {FACTOR:g} ({fidelity * FACTOR:g})", lambda_fidelity=fidelity * FACTOR),
        vary("realness_up", f"λ_rn times {FACTOR:g} ({realness * FACTOR:g})", lambda_realness=realness * FACTOR),
        vary("paper_weights", "the paper's λ (1, 2, 2, 1)", **PAPER),
        vary("score", "`gradient: score`", gradient="score"),
    ]


def stage_2() -> list[Variation]:
    """Stage 2 as configured and all that is varied in it; each starts from stage 1 as configured, of the same seed."""
    velocity = "velocity.init_args.condition_on_lq"
    return [
        Variation("stage2", BASE, "as configured (`z0_source: latent`)"),
        Variation("stage2", "reencode", "`z0_source: reencode`", {"z0_source": "reencode"}),
        Variation("stage2", "condition_on_lq", "v sees z_L as well", {velocity: True}),
    ]


def plan(variations: Sequence[Variation], seeds: Sequence[int], only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments in order: what is only measured, then seed by seed.

    Args:
        variations: All variations.
        seeds: The seeds.
        only: Groups (`stage1`) or variations (`stage1/score`) to restrict them to; what those start from is included.

    Raises:
        ValueError: If a word names neither, or there is no seed, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"Expected different seeds of at least 0, such as 0,1,2; got {list(seeds)}.")
    known = {word for variation in variations for word in (variation.group, variation.key)}
    if strangers := [word for word in only if word not in known]:
        raise ValueError(
            f"Expected --only to name groups or experiments out of {', '.join(sorted(known))}; got "
            f"{', '.join(strangers)}."
        )
    wanted = {v.key for v in variations if not only or v.group in only or v.key in only}
    if any(key.startswith("stage2/") for key in wanted):
        wanted.add(f"stage1/{BASE}")

    def ordered() -> Iterator[Experiment]:
        chosen = [variation for variation in variations if variation.key in wanted]
        yield from (Experiment(variation) for variation in chosen if variation.group == "chain")
        for seed in seeds:
            yield from (Experiment(variation, seed) for variation in chosen if variation.group != "chain")

    return list(ordered())


def foundation(experiment: Experiment, experiments: Sequence[Experiment]) -> Experiment | None:
    """The experiment whose weights another one starts from: stage 1 as configured, for stage 2.

    Args:
        experiment: The experiment.
        experiments: All experiments.
    """
    if experiment.variation.group != "stage2":
        return None
    return next(e for e in experiments if e.variation.key == f"stage1/{BASE}" and e.seed == experiment.seed)
