"""The full-size configurations, as they are shipped, over files in the published layouts at toy size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ctsr_lightning.cli import main, user_error
from ctsr_lightning.inference.loading import load_teachers
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.networks import PublishedResShift
from ctsr_lightning.teachers import BridgedTeacher, OneStepTeacher, ResShiftTeacher, Teacher
from ctsr_lightning.training import training_cli
from helpers.config_runs import CONFIGS, FEW, QUIET, Events, build, ctsr, train_and_use, write_base
from helpers.published_files import small_resshift, write_osediff, write_pisa, write_resshift

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # resuming into the same folder is what is tested
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
]

FULL, TEACHERS = CONFIGS / "ctsr", CONFIGS / "teacher"
HERE = [*FEW, "--data.batch_size", "1", "--data.train", "null", "--data.val", "null"]
"""Small crops of the sample photos."""
UNSEEN = ["--trainer.limit_val_batches", "0"]
FULL_PRECISION = ["--trainer.precision", "32-true"]
"""For trainings beside those that show the files' half precision, which many processors emulate."""
STAND_IN = ["--model.reconstruction.perceptual", "ctsr_lightning.metrics.texture.TextureDistance"]
SMALL_SHIFT = {"block_out_channels": "[8,8,8,8]", "norm_num_groups": "4", "attention_head_dim": "4"}
FILES = {
    "CTSR_BASE": "stable-diffusion-2-1-base",
    "CTSR_REALNESS": "osediff/osediff.pkl",
    "CTSR_RESSHIFT": "resshift/resshift_realsrx4_s15_v1.pth",
    "CTSR_SINSR": "sinsr/SinSR_v1.pth",
    "CTSR_VQ": "resshift/autoencoder_vq_f4.pth",
    "CTSR_PISA": "pisa/pisa_sr.pkl",
}
"""The variables of the configurations, and where the walk-through puts the files, below `models`."""


def small_shift(prefix: str) -> list[str]:
    """Options that make the UNet of a T_f of our own small."""
    return [word for name, value in SMALL_SHIFT.items() for word in (f"--model.{prefix}network.unet.{name}", value)]


def words_of(training: str, steps: int = 2) -> list[str]:
    """Options that bring a full-size training here."""
    here = [*HERE, "--trainer.max_steps", str(steps)]
    if training == "fidelity_teacher":
        return [*here, *small_shift(""), "--model.scheduler.total_steps", "9", "--model.scheduler.warmup_steps", "1"]
    stand_in = [] if training == "stage2" else STAND_IN
    return [*here, *stand_in, *(small_resshift("model.fidelity.") if training.startswith("stage") else [])]


def each_step(training: str) -> list[str]:
    """No accumulation, where a training has it."""
    return ["--trainer.accumulate_grad_batches", "1"] if training.endswith("teacher") else []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder `models` of the walk-through, all files generated, and the variables that name it."""
    folder = tmp_path_factory.mktemp("walk") / "models"
    base = write_base(folder / FILES["CTSR_BASE"])
    write_osediff(base, folder / FILES["CTSR_REALNESS"])
    write_pisa(base, folder / FILES["CTSR_PISA"])
    for denoiser in ("CTSR_RESSHIFT", "CTSR_SINSR"):
        write_resshift(folder / FILES[denoiser], folder / FILES["CTSR_VQ"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))  # no LPIPS weights
        patch.setenv("CTSR_RUNS", str(folder.parent / "runs" / "ctsr"))
        patch.setenv("CTSR_BASE_KIND", "any")
        patch.chdir(folder.parent)
        yield folder


@pytest.fixture(scope="module")
def runs(models: Path) -> Path:
    """Both stages from the published files: trained, tested and used."""
    for stage in ("stage1", "stage2"):
        train_and_use(FULL / f"{stage}.yaml", *words_of(stage))
    return models.parent / "runs" / "ctsr"


@pytest.fixture(scope="module")
def own(models: Path) -> Path:
    """Both teachers, trained by this package."""
    folder = models.parent / "runs" / "ctsr"
    for name in ("fidelity_teacher", "realness_teacher"):
        ctsr("fit", FULL / f"{name}.yaml", *words_of(name), *each_step(name), *UNSEEN)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_it_trains_in_half_precision_and_is_measured(runs: Path, stage: str) -> None:
    events = Events(runs / stage)
    for values in events.scalars("train/").values():
        assert len(values) == 2
        assert all(torch.isfinite(torch.tensor(value)) for value in values.values())
    metric = "val/texture_distance" if stage == "stage1" else "val/texture_distance/t=0.50"
    assert metric in events.scalars("val/")
    assert "val/T_f/psnr_y" in events.scalars("val/")
    assert "val/images" in events.images()
    photos = sorted((runs / stage / "restored").glob("*.png"))
    assert len(photos) == 2
    with Image.open(photos[0]) as image:
        assert image.size == (64, 64)


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained(runs: Path) -> None:
    state = torch.load(runs / "stage1" / "checkpoints" / "last.ckpt", weights_only=True)
    weights = state["state_dict"]
    base = {name for name in weights if "lora_" not in name}
    assert base == {f"student.unet.conv_in.base_layer.{part}" for part in ("weight", "bias")}  # as OSEDiff
    parts = {"unet": "default_decoder", "codec.autoencoder.encoder": "default_encoder"}
    for part, adapter in parts.items():
        assert any(name.startswith(f"student.{part}.") and adapter in name for name in weights)
    # The weights and AdamW's two moments: nothing of base, teachers, prompts or metrics.
    trained = sum(value.numel() for value in weights.values())
    assert sum(value.numel() for value in tensors(state) if value.dim() > 0) == 3 * trained
    assert load_file(runs / "stage1" / "weights.safetensors").keys() == weights.keys()

    velocity = torch.load(runs / "stage2" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in velocity} == {"velocity"}
    assert {name for name in velocity if ".velocity." not in name} == {"velocity.head.weight", "velocity.head.bias"}


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


@pytest.mark.slow
def test_stage_1_starts_as_the_realness_teacher(runs: Path) -> None:
    terms = Events(runs / "stage1").scalars("train/")
    assert terms["train/realness/align"][0] == pytest.approx(0.0, abs=1e-9)
    assert min(terms["train/fidelity/align"][0], terms["train/realness/prior"][0]) > 0.0


@pytest.mark.slow
def test_only_the_student_moves_on_the_weights_that_all_stand_on(models: Path) -> None:
    lr = ["--model.optimizer.lr", "0.01", "--trainer.logger.name", "moved", *UNSEEN, *FULL_PRECISION]
    cli = training_cli(["--config", str(FULL / "stage1.yaml"), *QUIET, *words_of("stage1"), *lr], run=False)
    student, teachers, lq = cli.model.student, cli.model.teachers, torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = [student.restore(lq), *(teacher.restore(lq) for teacher in teachers.values())]
    cli.trainer.fit(cli.model, cli.datamodule)
    with torch.no_grad():
        after = [student.restore(lq), *(teacher.restore(lq) for teacher in teachers.values())]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.slow
def test_stage_2_starts_from_stage_1(runs: Path) -> None:
    stages = [Events(runs / stage).scalars("test/") for stage in ("stage1", "stage2")]
    for metric in ("psnr_y", "ssim_y", "texture_distance"):
        before, after = stages[0][f"test/{metric}"], stages[1][f"test/{metric}/t=0.00"]
        assert after == pytest.approx(before, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "copies"), [("stage1", 4), ("stage2", 3)])
def test_the_base_is_held_once(runs: Path, stage: str, copies: int) -> None:
    table = Events(runs / stage).read.Tensors("memory/components/text_summary")[0]
    lines = table.tensor_proto.string_val[0].decode().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:]]
    parts = {name: (float(separate), float(held)) for name, _, _, _, separate, held, _ in rows}
    of_base = [name for name, kind, *_ in rows if kind in {"UNet2DConditionModel", "KLCodec"}]
    assert len(of_base) == copies + 1
    first_unet, first_codec = "student.unet", "student.codec"
    assert parts[first_unet][0] == parts[first_unet][1] > 0
    assert parts[first_codec][0] == parts[first_codec][1] > 0
    assert all(held < separate for separate, held in (parts[n] for n in of_base if n not in {first_unet, first_codec}))


@pytest.mark.slow
def test_upscale_goes_on_from_the_checkpoint_alone(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 18), (90, 120, 40)).save(tmp_path / "photos" / "green.png")
    checkpoint = str(runs / "stage2" / "checkpoints" / "last.ckpt")
    words = ["upscale", str(tmp_path / "photos"), str(tmp_path / "out"), "--checkpoint", checkpoint]
    main([*words, "--control", "0,1", "--device", "cpu"])
    for name in ("green_t0.00.png", "green_t1.00.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (80, 72)


@pytest.mark.slow
def test_both_stages_give_the_same_picture_at_t_0(runs: Path) -> None:
    lq = torch.rand(3, 20, 24)
    restorer = Restorer.from_pretrained(runs / "stage2" / "checkpoints" / "last.ckpt", "cpu")
    ends = restorer(lq, [0.0, 1.0])
    assert [tuple(end.shape) for end in ends] == [(3, 80, 96)] * 2
    one = Restorer.from_pretrained(runs / "stage1" / "weights.safetensors", "cpu")
    assert torch.equal(one(lq), ends[0])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "weights.safetensors"])
def test_the_teachers_are_found_again(runs: Path, file: str) -> None:
    teachers = load_teachers(runs / "stage1" / file)
    assert {name: type(teacher) for name, teacher in teachers.items()} == {"T_f": BridgedTeacher, "T_r": OneStepTeacher}


@pytest.mark.slow
def test_teachers_of_our_own_take_the_place_of_the_published_ones(
    own: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTSR_REALNESS", str(own / "realness_teacher" / "weights.safetensors"))
    words = [*HERE, *UNSEEN, "--model.fidelity", str(TEACHERS / "latent_resshift.yaml"), *small_shift("fidelity.")]
    ctsr(
        "fit", FULL / "stage1.yaml", *words, *STAND_IN, "--trainer.max_steps", "1", "--trainer.logger.name", "with_own"
    )
    terms = Events(own / "with_own").scalars("train/")
    assert terms["train/realness/align"][0] == pytest.approx(0.0, abs=1e-9)  # the student has started as this T_r
    assert terms.keys() == Events(runs / "stage1").scalars("train/").keys()
    teachers = load_teachers(own / "with_own" / "weights.safetensors")
    assert {name: type(one) for name, one in teachers.items()} == {"T_f": ResShiftTeacher, "T_r": OneStepTeacher}
    stage2 = training_cli(["--config", str(FULL / "stage2.yaml"), *words], run=False).model
    assert isinstance(stage2.fidelity, ResShiftTeacher)


@pytest.mark.slow
def test_the_trainings_of_the_teachers_log_their_terms(own: Path) -> None:
    assert Events(own / "fidelity_teacher").scalars("train/").keys() == {"train/loss", "train/shift/latent"}
    assert {"train/vsd", "train/critic/denoise"} < Events(own / "realness_teacher").scalars("train/").keys()


@pytest.mark.parametrize(
    ("teacher", "steps", "one_step"), [("resshift", 15, False), ("resshift_v3", 4, False), ("sinsr", 15, True)]
)
def test_published_fidelity_teachers_are_a_path_apart(models: Path, teacher: str, steps: int, one_step: bool) -> None:
    if teacher == "resshift_v3":
        v3 = models / "resshift" / "resshift_realsrx4_s4_v3.pth"
        write_resshift(v3, models / FILES["CTSR_VQ"])
    network = build(Teacher, TEACHERS / f"{teacher}.yaml", *small_resshift()).frozen.network
    assert isinstance(network, PublishedResShift)
    assert (network.schedule.num_steps, network.one_step) == (steps, one_step)


@pytest.mark.slow
def test_pisa_and_captions_are_a_path_apart(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = models.parent / "captions.json"
    captions.write_text('{"photos/one": "a", "photos/two": "a a"}')
    monkeypatch.setenv("CTSR_CAPTIONS", str(captions))
    prompt = str(CONFIGS / "prompt" / "captions.yaml")
    words = [*words_of("stage1"), "--model.realness", str(TEACHERS / "pisa.yaml")]
    words += ["--model.student.prompt", prompt, "--model.realness.network.prompt", prompt]
    model = training_cli(["--config", str(FULL / "stage1.yaml"), *words], run=False).model
    embedded = model.student.prompt(torch.rand(2, 3, 16, 16), ["photos/one", "photos/two"])
    assert not torch.equal(embedded[0], embedded[1])
    realness = model.teachers["realness"]
    assert realness.restore(torch.rand(1, 3, 16, 16), ["photos/one"]).shape == (1, 3, 64, 64)
    assert realness.frozen.network.residual


@pytest.mark.slow
def test_another_base_is_a_matter_of_variables(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "sd15", use_linear_projection=False, attention_head_dim=2)  # as in 1.5
    monkeypatch.setenv("CTSR_BASE", str(base))
    monkeypatch.setenv("CTSR_RUNS", str(tmp_path))
    stage1 = ["--config", str(FULL / "stage1.yaml"), *words_of("stage1")]
    with pytest.raises(Exception, match=r"OSEDiff's weights fit a student on Stable Diffusion 2\.1-base"):
        build(Teacher, TEACHERS / "osediff.yaml")
    name = "realness_teacher"
    ctsr("fit", FULL / f"{name}.yaml", *words_of(name, 1), *each_step(name), *UNSEEN, *FULL_PRECISION)
    monkeypatch.setenv("CTSR_REALNESS", str(tmp_path / name / "weights.safetensors"))
    model = training_cli(stage1, run=False).model
    lq = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.restore(lq), model.teachers["realness"].restore(lq))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CTSR_BASE_KIND", "sd21-base", "cross_attention_dim is 8 instead of 1024"),
        ("CTSR_REALNESS", "models/resshift/autoencoder_vq_f4.pth", "osediff.pkl or pisa_sr.pkl"),
        ("CTSR_RESSHIFT", "elsewhere.pth", "Expected the weights of a denoiser at 'elsewhere.pth', found none"),
        ("CTSR_RESSHIFT", "models/sinsr/SinSR_v1.pth", "Load it with load_sinsr"),
        ("CTSR_RESSHIFT_VERSION", "v3", "Set version to 'v1'"),
        ("CTSR_VQ", "models/resshift/resshift_realsrx4_s15_v1.pth", "It looks like a denoiser"),
    ],
)
def test_what_is_wrong_is_named(
    models: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    teacher, words = (
        ("osediff", []) if variable in {"CTSR_BASE_KIND", "CTSR_REALNESS"} else ("resshift", small_resshift())
    )
    with pytest.raises(Exception, match=r"Expected|by its name") as caught:
        build(Teacher, TEACHERS / f"{teacher}.yaml", *words)
    assert message in str(user_error(caught.value))
