"""`make claims` on tiny networks, two steps per training: from the command line to the page, and on from there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from ctsr_lightning.images import image_size, write_image
from ctsr_lightning.networks import LatentResShift, NanoCodec, OneStepStudent, nano_unet
from recipes.__main__ import main
from recipes.claims import plan as claims_plan
from recipes.claims import records as claims_records
from recipes.claims.plan import Variation, read_config, read_weights

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
        values = shrunk(read_config(NANO, name))
        values["data"]["init_args"] |= {"crop": 64, "val_crop": 64}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


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
        for module in ("plan", "exam", "page"):
            patch.setattr(f"recipes.claims.{module}.CROP", 64)
        yield place


WORDS = ["claims", "--data", "train", "--test", "test", "--chain", "chain", "--configs", "configs", "--work", "work"]
WORDS += ["--output", "docs", "--device", "cpu", "--precision", "float32", "--steps", "0.01", "--seeds", "1"]


def merged(variations: list[Variation], name: str) -> Variation:
    """All that is ever varied in a stage, in one training."""
    overrides = {key: value for variation in variations for key, value in variation.overrides.items()}
    return Variation(variations[0].group, name, "everything", overrides)


@pytest.fixture(scope="module")
def printed(place: Path) -> Iterator[str]:
    """What the first run says, after which the page is there; of the variations, a few are done."""
    first, second = claims_plan.stage_1, claims_plan.stage_2
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims_plan, "stage_1", lambda weights: [*first(weights)[:2], merged(first(weights), "all")])
        patch.setattr(claims_plan, "stage_2", lambda: [second()[0], merged(second(), "all")])
        with contextlib.redirect_stdout(out):
            main(WORDS)
        yield out.getvalue()


def configuration(place: Path, stem: str) -> dict[str, Any]:
    (path,) = place.glob(f"work/trainings/{stem}-*/config.yaml")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def test_every_experiment_leaves_a_record_and_the_page_is_written(printed: str, place: Path) -> None:
    stems = {path.name.rsplit("-", 1)[0] for path in place.glob("work/records/*.json")}
    trained = {f"stage1-{name}-seed1" for name in ("base", "no_distillation", "all")}
    trained |= {f"stage2-{name}-seed1" for name in ("base", "all")}
    assert stems == {"chain-teachers", *trained}
    assert "[6/6] stage2/all, seed 1" in printed
    assert printed.endswith("→ docs/claims.md\n")
    page = (place / "docs" / "claims.md").read_text(encoding="utf-8")
    assert (
        "python -m recipes claims --data train --test test --chain chain --output docs --seeds 1 --steps 0.01" in page
    )
    assert str(place) not in page
    assert "Measured on 2 images" in page
    for name in ("tradeoff", "changes"):
        assert min(image_size(place / "docs" / f"claims_{name}.png")) > 200
        assert f"](claims_{name}.png)" in page


def test_settings_reach_the_trainings(printed: str, place: Path) -> None:
    plain, without = (configuration(place, f"stage1-{name}-seed1") for name in ("base", "no_distillation"))
    assert plain["seed_everything"] == plain["data"]["init_args"]["seed"] == 1
    assert plain["trainer"]["max_steps"] == 2
    assert plain["model"]["init_args"]["student"]["init_args"]["weights"].startswith(str(place / "chain"))
    assert plain["model"]["init_args"]["lambda_fidelity"] == read_weights(place / "configs")["lambda_fidelity"]
    assert without["model"]["init_args"]["lambda_fidelity"] == without["model"]["init_args"]["lambda_realness"] == 0.0
    assert configuration(place, "stage1-all-seed1")["model"]["init_args"]["gradient"] == "score"
    second = configuration(place, "stage2-all-seed1")["model"]["init_args"]
    assert second["velocity"]["init_args"]["condition_on_lq"] is True
    assert second["z0_source"] == "reencode"
    for start in (
        second["student"]["init_args"]["weights"],
        second["velocity"]["init_args"]["unet"]["init_args"]["weights"],
    ):
        assert Path(start).parent.name.startswith("stage1-base-seed1-")
    assert os.environ["CTSR_RUNS"] == "elsewhere"


def test_only_weights_that_are_built_on_stay(printed: str, place: Path) -> None:
    kept = {path.parent.name.rsplit("-", 1)[0] for path in place.glob("work/trainings/*/weights.safetensors")}
    assert kept == {"stage1-base-seed1", "stage2-base-seed1"}


def test_t_0_of_stage_2_is_stage_1(printed: str, place: Path) -> None:
    first, second = (
        json.loads(next(place.glob(f"work/records/{name}-base-*.json")).read_text()) for name in ("stage1", "stage2")
    )
    assert first["values"]["t=0.00"] == second["values"]["t=0.00"]
    assert len(second["values"]) == 6 + 4
    assert second["images"] == ["0", "1"]
    assert second["made"]["steps"] == 2
    assert second["settings"]["start"] == claims_records.digest(first["settings"])


def test_what_is_finished_is_not_repeated_and_both_stages_of_a_chain_are_measured(
    printed: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.glob("work/records/*.json")}
    for stage in ("stage1", "stage2"):
        (source,) = place.glob(f"work/trainings/{stage}-base-*")
        shutil.copytree(source, place / "chain" / stage)
    config = place / "configs" / "stage1.yaml"  # the length of the full training is not that of an experiment
    config.write_text(config.read_text().replace("max_steps: ", "max_steps: 9"))
    (place / "docs" / "claims_reading.md").write_text("As expected of noise.")
    main(WORDS)
    assert "6 of 7 experiments are finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (full,) = place.glob("work/records/chain-full_length-*.json")
    (short,) = place.glob("work/records/stage2-base-*.json")
    assert json.loads(full.read_text())["values"] == json.loads(short.read_text())["values"]  # the same weights
    page = (place / "docs" / "claims.md").read_text(encoding="utf-8")
    assert "S_1 at full length" in page
    assert "As expected of noise." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "positive --steps"),
        (["--seeds", "one"], "seeds as whole numbers"),
        (["--only", "stage9"], "got stage9"),
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
