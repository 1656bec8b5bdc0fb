"""`make claims` on tiny networks, two steps per training: from the command line to the page, and on from there."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.evaluation.measuring import load_batches, load_images
from ctsr_lightning.evaluation.setup import benchmark_data
from ctsr_lightning.images import image_size, write_image
from ctsr_lightning.inference.loading import load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.networks import LatentResShift, nano_unet
from recipes.__main__ import main
from recipes.claims import experiments as plan
from recipes.claims.experiments import Experiment, read_config, read_loss_settings

pytestmark = pytest.mark.slow

NANO = Path(__file__).parents[2] / "configs" / "nano"
SIZES = {"NanoCodec": {"channels": 4}, "ctsr_lightning.networks.nano_unet": {"latent_channels": 4, "widths": [8, 16]}}


def shrunk(value: Any) -> Any:
    """A configuration with the smallest networks."""
    if isinstance(value, dict):
        value = {key: shrunk(item) for key, item in value.items()}
        if sizes := SIZES.get(value.get("class_path", "")):
            doubled = {"in_channels": 8} if "in_channels" in value.get("init_args", {}) else {}
            value["init_args"] = {**value.get("init_args", {}), **sizes, **doubled}
        return value
    return [shrunk(item) for item in value] if isinstance(value, list) else value


def write_configs(folder: Path) -> None:
    """The shipped configurations of both stages, with the smallest networks."""
    folder.mkdir()
    for name in ("stage1", "stage2"):
        values = read_config(NANO, name)
        values["data"]["init_args"] |= {"crop": 64, "val_crop": 64}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(shrunk(values)), encoding="utf-8")


def write_chain(folder: Path) -> None:
    """Codec and teachers with random weights, as their trainings leave them."""
    torch.manual_seed(0)
    codec = NanoCodec(4)
    student = OneStepStudent(nano_unet(4, widths=(8, 16)), codec, timestep=250)
    shift = LatentResShift(nano_unet(4, 8, widths=(8, 16)), codec)
    parts: dict[str, tuple[str, nn.Module]] = {
        "codec": ("codec.", codec),
        "prior": ("student.unet.", nano_unet(4, widths=(8, 16))),
        "fidelity_teacher": ("network.unet.", shift.unet),
        "realness_teacher": ("student.unet.", student.unet),
    }
    for name, (prefix, module) in parts.items():
        (folder / name).mkdir(parents=True)
        state = {f"{prefix}{key}": value.half().contiguous() for key, value in module.state_dict().items()}
        save_file(state, folder / name / "weights.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photographs, configurations and a chain, and a machine without LPIPS's weights."""
    place = tmp_path_factory.mktemp("claims")
    write_configs(place / "configs")
    write_chain(place / "chain")
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 3), ("test", 2)):
        for number in range(count):
            coarse = torch.rand(1, 3, 12, 12, generator=generator)
            image = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic").clamp(0, 1)
            write_image(place / name / f"{number}.png", image[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("TORCH_HOME", str(place / "torch_home"))
        patch.setenv("CTSR_RUNS", "elsewhere")
        patch.setattr(plan, "CROP", 64)
        yield place


WORDS = ["claims", "--photos", "train", "--test", "test", "--chain", "chain", "--configs", "configs", "--work", "work"]
WORDS += ["--output", "docs", "--device", "cpu", "--precision", "float32", "--steps", "0.004", "--seeds", "1"]


WITHOUT = ("no_distillation", "no_distillation_longer", "l2_4", "l2_16")


def few(every: list[Experiment]) -> list[Experiment]:
    """The first ones of each stage, and all that is ever varied in it in one training."""
    chosen = [
        e
        for e in every
        if not e.is_trained
        or e.key in {plan.STAGE_1, plan.NO_DISTILLATION, plan.STAGE_2, *plan.MORE_L2, plan.TRAINED_LONGER}
    ]
    for stage in ("stage1", "stage2"):
        overrides = {name: value for e in every if e.group == stage for name, value in e.overrides.items()}
        chosen.append(Experiment(f"{stage}/all", "everything", overrides))
    return chosen


@pytest.fixture(scope="module")
def printed(place: Path) -> Iterator[str]:
    """Output of the first run, which leaves the page; a few of the experiments are done."""
    every = plan.list_experiments
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "list_experiments", lambda settings, full: few(every(settings, full=full)))
        with contextlib.redirect_stdout(out):
            main(WORDS)
        yield out.getvalue()


def configuration(place: Path, stem: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((place / "work" / "trainings" / stem / "config.yaml").read_text())
    return values


def test_every_experiment_leaves_a_record_and_the_page_is_written(printed: str, place: Path) -> None:
    stems = {path.stem for path in place.glob("work/records/*-*.json")}
    trained = {f"stage1-{name}-seed1" for name in ("base", "all", *WITHOUT)}
    trained |= {f"stage2-{name}-seed1" for name in ("base", "all")}
    assert stems == {"chain-teachers", "chain-temperature_0", "chain-temperature_1", *trained}
    assert re.search(r"\[(\d+)/\1\] stage2/all, seed 1", printed)
    assert printed.endswith("→ docs/claims.md\n")
    page = (place / "docs" / "claims.md").read_text(encoding="utf-8")
    assert (
        "python -m recipes claims --photos train --test test --chain chain --output docs --seeds 1 --steps 0.004"
        in page
    )
    assert str(place) not in page
    assert "Measured on 2 images" in page
    rows = pd.read_csv(place / "docs" / "claims.csv.gz")
    assert rows.groupby(["experiment", "seed"]).ngroups == len(stems)
    assert rows["image"].nunique() == 2
    for name in ("tradeoff", "changes"):
        assert min(image_size(place / "docs" / f"claims_{name}.png")) > 200
        assert f"](claims_{name}.png)" in page


def test_settings_reach_the_trainings(printed: str, place: Path) -> None:
    plain, without = (configuration(place, f"stage1-{name}-seed1") for name in ("base", "no_distillation"))
    assert plain["seed_everything"] == plain["data"]["init_args"]["seed"] == 1
    assert plain["trainer"]["max_steps"] == 2
    assert plain["model"]["init_args"]["student"]["init_args"]["weights"].startswith(str(place / "chain"))
    assert plain["model"]["init_args"]["lambda_fidelity"] == read_loss_settings(place / "configs")["lambda_fidelity"]
    assert without["model"]["init_args"]["lambda_fidelity"] == without["model"]["init_args"]["lambda_realness"] == 0.0
    assert configuration(place, "stage1-all-seed1")["model"]["init_args"]["gradient"] == "paper"
    second = configuration(place, "stage2-all-seed1")["model"]["init_args"]
    assert second["t_distribution"] == "uniform"
    assert second["fidelity"]["init_args"]["network"]["init_args"]["temperature"] == 1.0
    for start in (
        second["student"]["init_args"]["weights"],
        second["velocity"]["init_args"]["unet"]["init_args"]["weights"],
    ):
        assert Path(start).parent.name == "stage1-base-seed1"


def test_only_weights_that_are_built_on_stay(printed: str, place: Path) -> None:
    kept = {path.parent.name for path in place.glob("work/trainings/*/weights.safetensors")}
    assert kept == {"stage1-base-seed1", "stage2-base-seed1"}


def read_record(place: Path, stem: str) -> tuple[dict[str, Any], dict[tuple[str, str, str], float]]:
    """A record, and its values by image, method and metric."""
    record = json.loads((place / "work" / "records" / f"{stem}.json").read_text())
    return record, {tuple(row[:3]): row[3] for row in record["measurements"]}


def test_t_0_of_stage_2_is_stage_1(printed: str, place: Path) -> None:
    (_, at_0), (second, values) = (read_record(place, f"{name}-base-seed1") for name in ("stage1", "stage2"))
    assert at_0 == {key: value for key, value in values.items() if key[1] == "t=0.00"}
    assert {image for image, _, _ in values} == {"0", "1"}
    blends = [f"blend α={alpha:.2f}" for alpha in (0.2, 0.4, 0.6, 0.8)]
    assert {method for _, method, _ in values} == {*blends, *(f"t={t:.2f}" for t in plan.CONTROLS)}
    assert second["made"]["steps"] == 2
    assert second["settings"] == {"overrides": {}, "length": 1.0, "weights": {}}


def test_blends_are_those_of_the_images(printed: str, place: Path) -> None:
    """PSNR-Y of α T_f + (1 - α) S_1 and α T_f + (1 - α) T_r, from the restored images themselves."""
    folder = place / "work" / "trainings" / "stage2-base-seed1"
    teachers = load_teachers(folder / "weights.safetensors")
    restorer = Restorer.from_pretrained(folder / "weights.safetensors", "cpu")
    module, _ = benchmark_data(4, None, place / "test", crop=64)
    assert load_images(module)
    batch = next(load_batches(module, [0]))
    faithful, realistic = (teachers[name].eval().restore(batch.lq).clamp(0, 1) for name in ("T_f", "T_r"))
    for stem, start in (("stage2-base-seed1", restorer(batch.lq)), ("chain-teachers", realistic)):
        mixed = (0.4 * faithful + 0.6 * start).double()
        restored, gt = (np.round(x[0].numpy() * 255).clip(0, 255) for x in (mixed, batch.gt))
        y = [np.tensordot([65.481, 128.553, 24.966], image / 255, 1) for image in (restored, gt)]
        psnr = 10 * np.log10(255**2 / np.mean((y[0] - y[1]) ** 2))
        _, values = read_record(place, stem)
        assert values[batch.key[0], "blend α=0.40", "psnr_y"] == pytest.approx(psnr, abs=0.02)


def test_what_is_finished_is_not_repeated_and_both_stages_of_a_chain_are_measured(
    printed: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.glob("work/records/*-*.json")}
    for stage in ("stage1", "stage2"):
        shutil.copytree(place / "work" / "trainings" / f"{stage}-base-seed1", place / "chain" / stage)
    config = place / "configs" / "stage1.yaml"  # the length of the full training is not that of an experiment
    config.write_text(config.read_text().replace("max_steps: ", "max_steps: 9"))
    (place / "docs" / "claims_reading.md").write_text("As expected of noise.")
    main(WORDS)
    assert "11 of 12 experiments are finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (_, full), (_, short) = (read_record(place, stem) for stem in ("chain-full_length", "stage2-base-seed1"))
    assert full == short  # the same weights
    page = (place / "docs" / "claims.md").read_text(encoding="utf-8")
    assert "S_1 at full length" in page
    assert "As expected of noise." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0.1"], "found others: steps. Name another --work"),
        (["--photos", "test", "--test", "train"], "found others: photos, test."),
    ],
)
def test_a_work_folder_of_other_settings_is_refused(
    printed: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*WORDS, *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "positive --steps"),
        (["--seeds", "one"], "seeds as whole numbers"),
        (["--only", "stage9"], "found stage9"),
        (["--chain", "train"], "Expected a finished chain in"),
        (["--test", "train"], "found 3 in both"),
        (["--configs", "train"], "Expected the nano configuration"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(
    place: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*WORDS, "--work", "untouched", *words])
    assert end.value.code == 1
    assert message in capsys.readouterr().err
    assert not (place / "untouched").exists()
