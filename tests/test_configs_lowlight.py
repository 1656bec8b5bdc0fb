"""The low-light configurations, each trained, tested and used at scale 1 through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctsr_lightning.cli import main
from ctsr_lightning.data import RealESRGANDataModule
from ctsr_lightning.evaluation.setup import load_data
from ctsr_lightning.images import enlarge, read_image, write_image
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.teachers import Teacher
from ctsr_lightning.training import link_scale, training_cli
from ctsr_lightning.weights.shipped import shipped_folder
from helpers.config_runs import CONFIGS, Events, build, nano_words, train_and_use, written
from helpers.drawn_photos import draw_photo
from helpers.reference import SHARED

CHAIN = ("fidelity_teacher", "realness_teacher", "stage1", "stage2")
SIZE = (76, 100)
"""Height and width of the pairs: no multiples of 16, as LOL's 600 are none."""


def draw_pairs(root: Path, number: int, first: int = 0) -> None:
    """Write photographs in the light, and the same in the dark with noise."""
    for i in range(first, first + number):
        high = draw_photo(*SIZE, i)
        noise = 0.02 * torch.randn(high.shape, generator=torch.Generator().manual_seed(i))
        write_image(root / "high" / f"{i}.png", high)
        write_image(root / "low" / f"{i}.png", (0.2 * high**1.5 + noise).clamp(0, 1))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pairs in LOL's layout and a run folder with nano's codec and prior; no LPIPS weights."""
    folder = tmp_path_factory.mktemp("lowlight")
    draw_pairs(folder / "data" / "lol" / "our485", 10)
    draw_pairs(folder / "data" / "lol" / "eval15", 15, first=20)
    for name in ("codec", "prior"):
        shutil.copytree(shipped_folder() / name, folder / "runs" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("CTSR_DATA", str(folder / "data"))
        patch.setenv("CTSR_RUNS", str(folder / "runs"))
        yield folder


@pytest.fixture(scope="module")
def trained(environment: Path) -> Path:
    """All four trainings, each of two steps, tested and used on whole images; the folder of the runs."""
    for name in CHAIN:
        words = [*nano_words(name), "--data.val_crop", "null", "--data.test_pairs", json.dumps([_few(environment)])]
        train_and_use(CONFIGS / "nano" / "lowlight" / f"{name}.yaml", *words)
    return environment / "runs" / "lowlight"


def _few(folder: Path) -> dict[str, Any]:
    """Two of the test pairs."""
    root = folder / "data" / "lol" / "eval15"
    return {"lq": str(root / "low"), "gt": str(root / "high"), "include": ["20*", "21*"], "count": 2}


@pytest.mark.slow
def test_the_chain_trains_at_scale_1_on_whole_images(trained: Path) -> None:
    for name in CHAIN:
        events = Events(trained / name)
        assert sorted(events.scalars("train/")["train/loss"]) == [0, 1]
        measured = events.scalars("test/")
        assert "test/input/psnr_y" in measured
        assert not any("bicubic" in metric for metric in measured)
        for photo in (trained / name / "restored").glob("*.png"):
            assert read_image(photo).shape == (3, *SIZE)
        assert len(list((trained / name / "restored").glob("*.png"))) == 2
    terms = Events(trained / "stage1").scalars("train/")
    assert all(terms[f"train/{teacher}/align"][0] > 0.0 for teacher in ("fidelity", "realness"))
    student, teacher = (load_file(trained / name / "weights.safetensors") for name in ("stage1", "realness_teacher"))
    assert 0.0 < max(float((student[name] - teacher[name]).abs().max()) for name in student) < 1e-3  # starts as T_r


@pytest.mark.slow
def test_the_saved_configuration_has_the_scale_everywhere(trained: Path) -> None:
    model = yaml.safe_load((trained / "stage1" / "config.yaml").read_text())["model"]["init_args"]
    assert [model[part]["init_args"]["network"]["init_args"]["scale"] for part in ("fidelity", "realness")] == [1, 1]
    assert model["student"]["init_args"]["scale"] == 1


@pytest.mark.slow
def test_the_commands_take_it(trained: Path, environment: Path, tmp_path: Path, monkeypatch) -> None:
    weights, test = trained / "stage2" / "weights.safetensors", environment / "data" / "lol" / "eval15"
    photo = test / "low" / "20.png"
    main(["upscale", str(photo), str(tmp_path / "lit"), "--checkpoint", str(weights), "--control", "0,1"])
    assert sorted(path.name for path in (tmp_path / "lit").iterdir()) == ["20_t0.00.png", "20_t1.00.png"]
    model = Restorer.from_pretrained(weights, "cpu")
    lq = read_image(photo)
    assert model.scale == 1
    whole = model(lq)
    assert whole.shape == (3, *SIZE)
    assert torch.allclose(read_image(tmp_path / "lit" / "20_t0.00.png"), whole, atol=0.6 / 255)
    model.tile = 32
    tiled = model(lq)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    model.color = "adain"  # the colours of the input: dark again
    assert torch.allclose(model(lq).mean(), lq.mean(), atol=0.02)
    words = ["--checkpoint", str(weights), "--metrics", "psnr_rgb,psnr_rgb_gtmean,ssim", "--limit", "2"]
    main(["evaluate", *words, "--data", "data/lol.yaml", "--output", str(tmp_path / "table")])
    record = json.loads((tmp_path / "table" / "summary.json").read_text())
    found = {result["setting"]: result for result in record["results"]}
    assert list(found)[:3] == ["input", "T_f", "T_r"]
    assert "blend α=0.50" in found
    pairs = [[read_image(test / side / f"{i}.png")[None] for side in ("low", "high")] for i in (20, 21)]
    errors = torch.stack([(low - high).square().mean() for low, high in pairs])
    assert found["input"]["psnr_rgb"] == pytest.approx((-10 * errors.log10()).mean().item(), abs=1e-3)
    assert "psnr_rgb on RGB" in (tmp_path / "table" / "summary.md").read_text()


def test_pairs_of_one_size_are_not_resampled(environment: Path) -> None:
    data = load_data("data/lol.yaml")
    assert isinstance(data, RealESRGANDataModule)
    assert data.scale == 1
    data.setup("test")
    assert len(data.test_dataloader()) == 15
    for batch in data.test_dataloader():
        for images, side in ((batch.lq, "low"), (batch.gt, "high")):
            file = environment / "data" / "lol" / "eval15" / side / f"{batch.key[0]}.png"
            assert torch.equal(images[0], read_image(file))
        assert torch.equal(enlarge(batch.lq, batch.gt), batch.lq)  # what is measured as `input` is the input


def test_a_test_set_with_a_pair_missing_is_refused(environment: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(environment / "data", tmp_path / "data")
    for side in ("low", "high"):
        (tmp_path / "data" / "lol" / "eval15" / side / "20.png").unlink()
    monkeypatch.setenv("CTSR_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match="Expected 15 pairs"):
        load_data("data/lol.yaml").setup("test")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_data_s_scale_is_that_of_the_teachers(
    environment: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    parsed: list[Any] = []

    def stop(config: Any) -> None:
        link_scale(config)
        parsed.append(config.model.init_args)
        raise InterruptedError

    monkeypatch.setattr("ctsr_lightning.training.link_scale", stop)
    with pytest.raises(InterruptedError):
        training_cli(["fit", "--config", str(CONFIGS / "nano" / f"{stage}.yaml"), "--data.scale", "1"])
    (found,) = parsed
    networks = [found[part].init_args.network.init_args.scale for part in ("fidelity", "realness")]
    assert [found.student.init_args.scale, *networks] == [1, 1, 1]


@pytest.mark.parametrize(
    ("training", "part", "teacher"),
    [
        ("fidelity_teacher", "network", "nano_lowlight_resshift"),
        ("realness_teacher", "student", "nano_lowlight_one_step"),
        ("stage1", "student", "nano_lowlight_one_step"),
    ],
)
def test_a_teacher_is_built_as_it_was_trained(training: str, part: str, teacher: str) -> None:
    trained = written(f"nano/lowlight/{training}")["model"]["init_args"][part]["init_args"]
    network = written(f"teacher/{teacher}")["init_args"]["network"]["init_args"]
    assert network.pop("scale") == written("data/lol")["init_args"]["scale"] == 1  # linked in a training
    relative = {key: f"../{value}" if str(value).startswith("../") else value for key, value in network.items()}
    assert {**trained, "weights": None} == {**relative, "weights": None}


@pytest.mark.slow
def test_its_teachers_restore_at_scale_1(trained: Path) -> None:
    lq = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for name in ("resshift", "one_step"):
        assert build(Teacher, CONFIGS / "teacher" / f"nano_lowlight_{name}.yaml").restore(lq).shape == lq.shape


@pytest.mark.parametrize("training", CHAIN)
def test_it_has_the_shape_of_nano(training: str) -> None:
    nano, lowlight = (written(f"{folder}/{training}") for folder in ("nano", "nano/lowlight"))
    assert lowlight["model"]["class_path"] == nano["model"]["class_path"]
    arguments = [config["model"]["init_args"].keys() for config in (nano, lowlight)]
    assert arguments[0] - {"target", "cache"} == arguments[1]
    kinds = [[callback["class_path"] for callback in config["trainer"]["callbacks"]] for config in (nano, lowlight)]
    assert kinds[0] == kinds[1]


@pytest.mark.reference
def test_lol_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not (SHARED / "data" / "lol").is_dir():
        pytest.skip("LOL is not here")
    (tmp_path / "lol").mkdir()
    for name, folder in (("our485", "train"), ("eval15", "eval15")):
        (tmp_path / "lol" / name).symlink_to(SHARED / "data" / "lol" / folder)
    monkeypatch.setenv("CTSR_DATA", str(tmp_path))
    data = load_data("data/lol.yaml")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.lq.shape == batch.gt.shape == (1, 3, 400, 600)
    assert float(batch.lq.mean()) < 0.25 < float(batch.gt.mean())
