"""Every shipped configuration, driven through the command line from the first training to the restored photos."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningDataModule
from PIL import Image
from safetensors.torch import load_file

from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.teachers import Teacher
from ctsr_lightning.training import INTERRUPTED, training_cli
from helpers.config_runs import CHAIN, CONFIGS, Events, build, ctsr, nano_words, part_parser, train_and_use, written

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

DATA = sorted(path.name for path in (CONFIGS / "data").glob("*.yaml"))
TEACHERS_TO_CHOOSE = sorted(p.name for p in (CONFIGS / "teacher").glob("*.yaml") if not p.name.startswith("nano_"))
PROMPTS_TO_CHOOSE = sorted(path.name for path in (CONFIGS / "prompt").glob("*.yaml"))

RECONSTRUCTION = {"rec/texture_distance", "rec/grid", "rec/lattice"}
TEACHERS = {f"{teacher}/{term}" for teacher in ("fidelity", "realness") for term in ("align", "prior")}
TERMS = {
    "codec": {"codec/l1"},
    "prior": {"prior/denoise"},
    "fidelity_teacher": {"shift/latent", "rec/l1", "rec/grid", "rec/lattice"},
    "realness_teacher": {*RECONSTRUCTION, "rec/l1"},
    "stage1": {*RECONSTRUCTION, "rec/l2", *TEACHERS},
    "stage2": {"velocity/match", "rec/grid"},
}
METRICS = ("psnr_y", "ssim_y", "texture_distance", "grid_energy")
CONTROLS = ("t=0.00", "t=0.25", "t=0.50", "t=0.75", "t=1.00")
BASELINES = {name: {f"{name}/{metric}" for metric in METRICS} for name in ("bicubic", "T_f", "T_r")}
RESTORED = set(METRICS) | BASELINES["bicubic"]
SWEPT = {f"{metric}/{label}" for metric in METRICS for label in (*CONTROLS, "realness", "fidelity")}
MEASURED = {
    "codec": {"codec/l1", "loss"},
    "prior": {"prior/denoise", "loss"},
    "fidelity_teacher": RESTORED,
    "realness_teacher": RESTORED,
    "stage1": RESTORED | BASELINES["T_f"] | BASELINES["T_r"],
    "stage2": SWEPT | BASELINES["bicubic"] | BASELINES["T_f"] | BASELINES["T_r"],
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """No LPIPS weights anywhere, so that the stand-in takes their place on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield patch


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line up to where networks would be built: most trainings start from the weights of others."""
    parsed: list[Any] = []

    def stop(config: Any) -> None:
        parsed.append(config)
        raise InterruptedError

    def until_then(*words: str) -> Any:
        with pytest.raises(InterruptedError):
            training_cli(["fit", *words])
        return parsed.pop()

    monkeypatch.setattr("ctsr_lightning.training.link_scale", stop)
    return until_then


def read_parts(base: type, group: str, *names: str) -> dict[str, Any]:
    """What the command line makes of files of a group, each taking the place of the one before."""
    words = [word for name in names for word in ("--part", str(CONFIGS / group / name))]
    read: dict[str, Any] = part_parser(base).parse_args(words).part.as_dict()
    return read


@pytest.mark.parametrize("name", TEACHERS_TO_CHOOSE)
def test_a_teacher_takes_the_place_of_another(name: str) -> None:
    found = read_parts(Teacher, "teacher", name)
    assert read_parts(Teacher, "teacher", "resshift.yaml", "osediff.yaml", name) == found  # nothing is left over
    room = "cache" if name == "cached.yaml" else "teachers"
    assert found["class_path"] == f"ctsr_lightning.{room}.{written(f'teacher/{name}')['class_path']}"


def test_a_training_takes_other_teachers_and_prompts(parse: Callable[..., Any]) -> None:
    chosen = {
        "fidelity": "teacher/sinsr.yaml",
        "realness": "teacher/cached.yaml",
        "student.prompt": "prompt/captions.yaml",
    }
    words = [word for place, name in chosen.items() for word in (f"--model.{place}", str(CONFIGS / name))]
    model = parse("--config", str(CONFIGS / "ctsr" / "stage1.yaml"), *words)["model.init_args"]
    for place, name in chosen.items():
        base, (group, file) = (Prompt if "prompt" in place else Teacher), name.split("/")
        found = model[place.replace("student.", "student.init_args.")]
        assert found.as_dict() == read_parts(base, group, file)


def test_a_prior_may_become_the_realness_score(tmp_path: Path, parse: Callable[..., Any]) -> None:
    unet = "ctsr_lightning.networks.nano_unet"
    options = {"latent_channels": 24, "widths": [48, 96, 144], "weights": "prior/weights.safetensors"}
    score = {"class_path": unet, "init_args": options}
    (tmp_path / "score.yaml").write_text(yaml.safe_dump(score))
    teacher = {"init_args": {"score": score}}
    (tmp_path / "stage1.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"realness": teacher}}}))
    for words in (
        ["--config", str(tmp_path / "stage1.yaml")],
        ["--model.realness.score", str(tmp_path / "score.yaml")],
    ):
        config = parse("--config", str(CONFIGS / "nano" / "stage1.yaml"), *words)
        found = config["model.init_args.realness.init_args.score"]
        assert found.class_path == unet
        assert {name: found.init_args[name] for name in options} == {
            **options,
            "widths": (48, 96, 144),
            "weights": Path("prior/weights.safetensors"),
        }


@pytest.mark.parametrize("name", PROMPTS_TO_CHOOSE)
def test_a_prompt_takes_the_place_of_another(name: str) -> None:
    found = read_parts(Prompt, "prompt", name)
    assert found["class_path"] == f"ctsr_lightning.prompts.{written(f'prompt/{name}')['class_path']}"
    assert read_parts(Prompt, "prompt", "text.yaml", name) == found


@pytest.mark.parametrize("name", DATA)
def test_a_data_group_builds(name: str) -> None:
    assert build(LightningDataModule, CONFIGS / "data" / name).scale == (1 if name == "lol.yaml" else 4)


def test_full_size_is_the_paper() -> None:
    one, two = (written(f"ctsr/stage{n}") for n in (1, 2))
    loss = one["model"]["init_args"]
    pixels = loss["reconstruction"]
    assert [pixels["lambda_l2"], pixels["lambda_lpips"]] == [1, 2]
    assert [loss["lambda_fidelity"], loss["lambda_realness"]] == [2, 1]
    assert pixels.keys() == {"lambda_l2", "lambda_lpips", "perceptual"}  # nothing but Eq. 1
    assert (loss["gamma_time"], loss["gradient"], pixels["perceptual"]["init_args"]["net"]) == (5.5, "paper", "vgg")
    for config, steps in ((one, 20_000), (two, 50_000)):
        model, trainer = config["model"]["init_args"], config["trainer"]
        assert trainer["max_steps"] == steps
        assert "accumulate_grad_batches" not in trainer
        assert model["optimizer"]["init_args"] | {"weight_decay": 0} == {
            "lr": 5e-5,
            "betas": [0.9, 0.999],
            "weight_decay": 0,
        }
        student = model["student"]["init_args"]
        lora = {"rank": 4, "alpha": 8}
        assert (student["timestep"], student["lora"], student["encoder_lora"]) == (999, lora, lora)
        data = written(f"data/{Path(config['data']).name}")["init_args"]
        assert (data["batch_size"], data["crop"], data["scale"]) == (1, 512, 4)
        assert model["fidelity"] == "../teacher/resshift.yaml"
    teacher = written("teacher/resshift")["init_args"]["network"]["init_args"]
    assert teacher["version"].endswith(",v1}")  # 15 steps, Table 8
    assert one["model"]["init_args"]["realness"] == "../teacher/osediff.yaml"
    realness = written("teacher/osediff")["init_args"]["network"]["init_args"]
    assert realness["weights"] == loss["student"]["init_args"]["weights"]


@pytest.mark.parametrize(
    ("training", "part", "teacher"),
    [
        ("ctsr/fidelity_teacher", "network", "latent_resshift"),
        ("ctsr/realness_teacher", "student", "osediff"),
        ("ctsr/stage1", "student", "osediff"),
        ("nano/fidelity_teacher", "network", "nano_resshift"),
        ("nano/realness_teacher", "student", "nano_one_step"),
        ("nano/stage1", "student", "nano_one_step"),
    ],
)
def test_a_teacher_is_built_as_it_was_trained(training: str, part: str, teacher: str) -> None:
    trained = written(training)["model"]["init_args"][part]["init_args"]
    network = written(f"teacher/{teacher}")["init_args"]["network"]["init_args"]
    unsaid: dict[str, Any] = {"sets": []}
    for key in (trained.keys() & network.keys()) - {"weights"}:
        same = trained[key] | unsaid if key.endswith("lora") else trained[key]
        assert same == network[key], key
    only_one = {"weights", "sample_latent", "residual"}  # the defaults, said in one of the two
    assert (trained.keys() ^ network.keys()) <= only_one


def test_nano_s_sizes_are_written_once() -> None:
    files = [path for path in CONFIGS.rglob("*.yaml") if "nano" in str(path.relative_to(CONFIGS))]
    sizes = re.findall(r"\w*(?:channels|widths): ", "".join(path.read_text() for path in files))
    assert sorted(sizes) == ["in_channels: "] * 2 + ["widths: "] * 2  # T_f's and the flow's; others are defaults


@pytest.mark.parametrize("training", ["fidelity_teacher", "realness_teacher", "stage1", "stage2"])
def test_full_size_has_the_shape_of_nano(training: str) -> None:
    nano, full = (written(f"{size}/{training}") for size in ("nano", "ctsr"))
    assert nano.keys() == full.keys()
    assert nano["model"]["class_path"] == full["model"]["class_path"]
    arguments = [config["model"]["init_args"].keys() for config in (nano, full)]
    # Not the papers', so not at full size.
    ours = {"lambda_grid", "symmetries", "l2_from", "target", "cache", "t_distribution", "head_lr"}
    theirs = {
        "prior",
        "critic",
        "critic_lora",
        "critic_lr",
        "lambda_critic",
        "velocity_start",
        "guidance",
        "negative_prompt",
        "upsample_modes",
        "clamp",
    }  # of VSD, in whose place nano's T_r may have a target
    assert arguments[0] - ours == arguments[1] - ours - theirs
    kinds = [[callback["class_path"] for callback in config["trainer"]["callbacks"]] for config in (nano, full)]
    averaged = ["EMA"] if training.endswith("teacher") else []  # the stages' checkpoints stay small
    assert [*(kind for kind in kinds[0] if kind in averaged or kind != "EMA"), "MemorySummary"] == kinds[1]


def test_the_page_on_full_size_names_what_there_is() -> None:
    page = (CONFIGS.parent / "docs" / "full_size.md").read_text()
    named = set(re.findall(r"configs/[\w/]+\.yaml", page))
    assert named >= {f"configs/teacher/{name}" for name in TEACHERS_TO_CHOOSE}
    assert all((CONFIGS.parent / name).is_file() for name in named)
    groups = ("ctsr", "network", "prompt", "teacher")
    files = [path.read_text() for group in groups for path in (CONFIGS / group).glob("*.yaml")]
    variables = set(re.findall(r"oc\.env:(\w+)", "".join(files)))
    table = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `CTSR_"))
    assert set(re.findall(r"CTSR_\w+", table)) == variables | {"CTSR_DATA"}


@pytest.fixture(scope="module")
def nano(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole nano chain: every training is run, tested and used; the last one by typed commands."""
    runs = tmp_path_factory.mktemp("nano")
    environment.setenv("CTSR_RUNS", str(runs))
    *links, stage2 = ((CONFIGS / "nano" / f"{name}.yaml", nano_words(name, steps=3)) for name in CHAIN)
    for config, words in links:
        train_and_use(config, *words)
    ctsr("fit", stage2[0], *stage2[1])
    for verb in ("test", "predict"):
        ctsr(verb, stage2[0], *stage2[1], "--ckpt_path", str(runs / "stage2" / "checkpoints" / "last.ckpt"))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAIN)
def test_nano_trains_and_is_measured(nano: Path, name: str) -> None:
    events, terms = Events(nano / name), TERMS[name] | {"loss"}
    trained = events.scalars("train/")
    assert trained.keys() == {f"train/{term}" for term in terms}
    for values in trained.values():
        assert sorted(values) == [0, 1, 2]
    for split in ("val", "test"):
        measured = events.scalars(f"{split}/")
        assert measured.keys() == {f"{split}/{metric}" for metric in MEASURED[name]}
    weights = torch.load(nano / name / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights["global_step"] == 3
    assert weights["state_dict"].keys() == load_file(nano / name / "weights.safetensors").keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAIN)
def test_nano_restores_photos(nano: Path, name: str) -> None:
    photos = sorted((nano / name / "restored").glob("*.png"))
    assert [photo.stem for photo in photos] == ["chelsea", "coffee"]
    for photo in photos:
        with Image.open(photo) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "columns"), [("stage1", 5), ("stage2", 9)])
def test_nano_shows_pictures(nano: Path, name: str, columns: int) -> None:
    images = Events(nano / name).images()
    curves = {"val/tradeoff", "test/tradeoff"} if name == "stage2" else set()
    assert images.keys() == {"val/images", "test/images"} | curves
    width, height = images["val/images"]
    assert width >= columns * 64  # lq | T_f | T_r | restored or t = 0 … 1 | gt
    assert height >= 2 * 64
    assert (nano / name / "tradeoff.png").is_file() is (name == "stage2")


@pytest.mark.slow
def test_nano_goes_on_after_ctrl_c_as_if_nothing_had_happened(nano: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    config = CONFIGS / "nano" / "stage2.yaml"
    words = [*nano_words("stage2", steps=3), "--trainer.logger.init_args.name", "interrupted"]
    with pytest.raises(SystemExit) as end:
        ctsr("fit", config, *words, "--trainer.callbacks+", "helpers.config_runs.PressCtrlC")
    signal.signal(signal.SIGINT, handler)  # Lightning ignores further Ctrl-C after the first
    assert end.value.code == INTERRUPTED
    assert not (nano / "interrupted" / "weights.safetensors").exists()
    ctsr("fit", config, *words, "--ckpt_path", str(nano / "interrupted" / "checkpoints" / "last.ckpt"))
    logged = [Events(nano / name).scalars("train/") for name in ("interrupted", "stage2")]
    assert list(logged[0]["train/loss"].values()) == list(logged[1]["train/loss"].values())
    resumed, straight = (load_file(nano / name / "weights.safetensors") for name in ("interrupted", "stage2"))
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


@pytest.mark.slow
def test_nano_starts_where_the_paper_says(nano: Path) -> None:
    terms = Events(nano / "stage1").scalars("train/")
    assert all(terms[f"train/{teacher}/align"][0] > 0.0 for teacher in ("fidelity", "realness"))
    student, teacher = (load_file(nano / name / "weights.safetensors") for name in ("stage1", "realness_teacher"))
    change = max(float((student[name] - teacher[name]).abs().max()) for name in student)
    assert 0.0 < change < 1e-3  # the student starts as T_r, and takes few and small steps
    stage1, stage2 = Events(nano / "stage1").scalars("test/"), Events(nano / "stage2").scalars("test/")
    for metric in METRICS:  # t = 0 is stage 1
        (before,), (after,) = (found.values() for found in (stage1[f"test/{metric}"], stage2[f"test/{metric}/t=0.00"]))
        assert after == pytest.approx(before, rel=1e-5)
